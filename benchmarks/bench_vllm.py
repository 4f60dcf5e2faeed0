"""Claim: the guard inside vLLM costs at most 1.01 times the time per token on a GPU, 1.02 on a CPU, 1.05 there eagerly.

    python benchmarks/bench_vllm.py [--eager] [--concurrency 1 8 32] [--neurons 40 600] [--tokens 64] [--rounds 11]
    python benchmarks/bench_vllm.py --model-shape llama-8b --concurrency 1 8 32 128 256        (on a GPU)

Two engines of the same settings run side by side: plain vLLM, and vLLM with taps through `VllmEngine`, every response
scored with log-probability and entropy. The same requests go to one and the other, turn about; the time is that of
whole requests. Needs vLLM (`make vllm`). Start-up times and resident memory of both are printed. On a GPU each gets
`--gpu-share` of its memory, and plain vLLM the model runner that it takes by itself, which may be another than that of
the guard; with VLLM_USE_V2_MODEL_RUNNER=0 in the environment both take the same.
"""

import argparse
import asyncio
import os
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import numpy as np
import psutil
import torch
from _interleaved import compare
from _shapes import SHAPES, WeightlessCheckpoint, write_shape

from probes.models import DEFAULT_MODEL, load_tokenizer, resolve_model
from probes.neurons import NeuronSet
from probes.prompts import encode_prompt
from service.engines.base import EngineRequest, HeadBank, RequestTiming
from service.engines.vllm_engine import VllmEngine

BARS = {"eager": 1.05, "compiled": 1.02, "on a GPU": 1.01}
QUESTION = "Write a long story about a lighthouse keeper who finds a map."


def main() -> None:
    args = parse_arguments()
    folder = resolve_model(args.model)
    with tempfile.TemporaryDirectory() as scratch:
        if args.model_shape:
            folder = write_shape(args.model_shape, load_tokenizer(folder), Path(scratch))
        asyncio.run(measure(folder, args))


async def measure(folder: Path, args: argparse.Namespace) -> None:
    mode, is_gpu = "eager" if args.eager else "compiled", torch.cuda.is_available()
    bar = BARS["on a GPU" if is_gpu else mode]
    options: dict[str, Any] = {
        "enforce_eager": args.eager,
        "max_num_seqs": max(args.concurrency),
        "max_model_len": 1024,
        **({"gpu_memory_utilization": args.gpu_share} if is_gpu else {"kv_cache_memory_bytes": 1 << 30}),
        **({"load_format": "dummy"} if args.model_shape else {}),
    }
    guarded, guarded_cost = await started(lambda: start_guarded(folder, args, options))
    plain, plain_cost = await started(lambda: start_plain(folder, guarded.dtype, options))
    runner = "V2" if plain.vllm_config.use_v2_model_runner else "V1"
    print(
        f"{args.model_shape or args.model} {guarded.dtype}, vLLM {mode} on {guarded.device}, {platform.machine()}, "
        f"torch {torch.__version__}, {args.tokens} tokens, {args.rounds} rounds; plain vLLM: model runner {runner}\n"
        f"start: guarded {guarded_cost[0]:.0f} s, plain {plain_cost[0]:.0f} s; resident memory of its "
        f"processes: guarded {guarded_cost[1]:.0f} MB, plain {plain_cost[1]:.0f} MB"
    )
    prompt = encode_prompt(guarded.tokenizer, QUESTION)
    for n_neurons in args.neurons:
        await guarded.load_heads(random_bank(guarded, n_neurons))
        for concurrency in args.concurrency:
            result = await compare(
                timed(lambda at: read_guarded(guarded, prompt, args.tokens, at), concurrency, args.tokens),
                timed(lambda at: read_plain(plain, prompt, args.tokens, at), concurrency, args.tokens),
                rounds=args.rounds,
            )
            verdict = "met" if result.ratio.median <= bar else "missed"
            print(
                f"{mode} K = {n_neurons}, concurrency {concurrency}: guarded {result.first.text(2)} ms a token, plain "
                f"{result.second.text(2)}, ratio {result.ratio.text()} (bar {bar}: {verdict})",
                flush=True,
            )
    await guarded.close()
    plain.shutdown()


async def started(start: Callable[[], Awaitable[Any]]) -> tuple[Any, tuple[float, float]]:
    """What was started, how long it took [s], and what its processes hold [MB]."""
    before, began = set(psutil.Process().children(recursive=True)), time.perf_counter()
    engine = await start()
    took = time.perf_counter() - began
    children = set(psutil.Process().children(recursive=True)) - before
    return engine, (took, sum(child.memory_info().rss for child in children) / 2**20)


async def start_guarded(folder: Any, args: argparse.Namespace, options: dict[str, Any]) -> VllmEngine:
    engine = VllmEngine(folder, model_name=args.model, dtype=args.dtype, slots=args.slots, arguments=options)
    engine.stop_token_ids = frozenset()  # every response has all its tokens, as those of plain vLLM
    if args.model_shape:
        engine.checkpoint = WeightlessCheckpoint(folder)
    await engine.start()
    return engine


async def start_plain(folder: Any, dtype: str, options: dict[str, Any]) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=str(folder),
        dtype=dtype,
        skip_tokenizer_init=True,
        generation_config="vllm",
        disable_log_stats=True,
        **options,
    )
    return AsyncLLM.from_engine_args(arguments)


def random_bank(engine: VllmEngine, n_neurons: int) -> HeadBank:
    """Random neurons, half of them H-neurons: the cost does not depend on which."""
    random = np.random.default_rng(0)
    widths = engine.checkpoint.widths
    neurons = NeuronSet.from_flat(widths, random.choice(sum(widths), size=n_neurons, replace=False))
    weights = random.normal(size=(1, n_neurons)).astype(np.float32)
    return HeadBank(("probe",), neurons, weights, np.flatnonzero(weights[0] > 0), "predicting")


def timed(read: Callable[[int], Awaitable[int]], concurrency: int, tokens: int) -> Callable[[], Awaitable[float]]:
    """A side of the comparison: milliseconds a token of requests that run together."""

    async def run() -> float:
        began = time.perf_counter()
        counts = await asyncio.gather(*(read(at) for at in range(concurrency)))
        assert counts == [tokens] * concurrency, counts
        return 1000 * (time.perf_counter() - began) / tokens

    return run


async def read_guarded(engine: VllmEngine, prompt: list[int], tokens: int, at: int) -> int:
    request = EngineRequest(f"g{at}", tuple(prompt), tokens)
    async with aclosing(engine.generate(request, RequestTiming())) as steps:
        return sum([step.token is not None and step.row is not None async for step in steps])


async def read_plain(engine: Any, prompt: list[int], tokens: int, at: int) -> int:
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA
    )
    outputs = engine.generate(TokensPrompt(prompt_token_ids=prompt), params, f"p{at}-{time.monotonic_ns()}")
    return sum([len(output.outputs[0].token_ids) async for output in outputs])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--model-shape", choices=sorted(SHAPES), help="a model of this size with made-up weights")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--gpu-share", type=float, default=0.45, help="of a GPU's memory, for each of the two")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--neurons", type=int, nargs="+", default=[40, 600])
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=11)
    return parser.parse_args()


if __name__ == "__main__":
    main()
