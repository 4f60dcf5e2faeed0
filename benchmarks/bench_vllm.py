"""Claim: the guard inside vLLM costs at most 1.02 times the time per token compiled, 1.05 in eager mode, 1.01 on a GPU.

    python benchmarks/bench_vllm.py [--eager] [--concurrency 1 8 32] [--neurons 600] [--restarts 3]

Three sides take turns with the same requests, and the time is that of whole requests: guarded ones, every response
scored with log-probability and entropy; plain ones in the same engine, whose taps then have nothing to do; and plain
ones in a vLLM without taps. Two processes that do the same differ by several per cent, by where their memory lies (two
plain ones here: 6%), so engines are started anew `--restarts` times, in alternating order, and ratios of all rounds are
pooled. In eager mode the second side is the sharper comparison; a compiled graph runs its taps for it too. Slots are
read whether a neuron is in them or not, so the number of neurons hardly matters. Needs vLLM (`make vllm`).
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
from _interleaved import Spread
from _shapes import SHAPES, WeightlessCheckpoint, write_shape

from probes.models import DEFAULT_MODEL, load_tokenizer, pick_device, pick_dtype, resolve_model
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
    options: dict[str, Any] = {
        "enforce_eager": args.eager,
        "max_num_seqs": max(args.concurrency),
        "max_model_len": 1024,
        **({"gpu_memory_utilization": args.gpu_share} if is_gpu else {"kv_cache_memory_bytes": 1 << 30}),
        **({"load_format": "dummy"} if args.model_shape else {}),
    }
    print(f"{args.model_shape or args.model}, vLLM {mode}, {platform.machine()}, torch {torch.__version__}", flush=True)
    over_same: dict[tuple[int, int], list[float]] = {}
    over_plain: dict[tuple[int, int], list[float]] = {}
    for restart in range(args.restarts):
        await measure_once(folder, args, options, is_guarded_first=restart % 2 == 0, found=(over_same, over_plain))
    bar = BARS["on a GPU" if is_gpu else mode]
    for key, ratios in over_plain.items():
        spread = Spread.of(ratios)
        print(
            f"{mode} K = {key[0]}, concurrency {key[1]}: guarded over plain vLLM {spread.text()} (bar {bar}: "
            f"{'met' if spread.median <= bar else 'missed'}), over plain requests beside it "
            f"{Spread.of(over_same[key]).text()}"
        )


async def measure_once(
    folder: Path, args: argparse.Namespace, options: dict[str, Any], *, is_guarded_first: bool, found: Any
) -> None:
    """Start both engines, run all rounds, add their ratios to `found`, stop."""
    dtype = str(pick_dtype(args.dtype, pick_device("auto"))).removeprefix("torch.")
    makers = {
        "guarded": lambda: start_guarded(folder, args, options),
        "plain": lambda: start_plain(folder, dtype, options),
    }
    engines, shown = {}, []
    for name in ("guarded", "plain") if is_guarded_first else ("plain", "guarded"):
        engines[name], took, processes = await started(makers[name])
        shown.append((name, took, processes))
    guarded, plain = engines["guarded"], engines["plain"]
    prompt = encode_prompt(guarded.tokenizer, QUESTION)
    for n_neurons in args.neurons:
        await guarded.load_heads(random_bank(guarded, n_neurons))
        for concurrency in args.concurrency:
            sides = [
                timed(read, concurrency, args.tokens)
                for read in (
                    lambda at: read_guarded(guarded, prompt, args.tokens, at),
                    lambda at: read_plain(guarded._core._vllm, prompt, args.tokens, at),
                    lambda at: read_plain(plain, prompt, args.tokens, at),
                )
            ]
            for side in sides:
                await side()
            for _ in range(args.rounds):
                took_guarded, took_same, took_plain = [await side() for side in sides]
                found[0].setdefault((n_neurons, concurrency), []).append(took_guarded / took_same)
                found[1].setdefault((n_neurons, concurrency), []).append(took_guarded / took_plain)
            print(f"  concurrency {concurrency}: {took_guarded:.1f} ms a token, plain {took_plain:.1f}", flush=True)
    text = ", ".join(f"{name} in {took:.0f} s, {memory(held):.0f} MB" for name, took, held in shown)
    print(f"  started {text}", flush=True)
    await guarded.close()
    plain.shutdown()


async def started(start: Callable[[], Awaitable[Any]]) -> tuple[Any, float, set[psutil.Process]]:
    """What was started, how long it took [s], and its processes."""
    before, began = set(psutil.Process().children(recursive=True)), time.perf_counter()
    engine = await start()
    took = time.perf_counter() - began
    return engine, took, set(psutil.Process().children(recursive=True)) - before


def memory(processes: set[psutil.Process]) -> float:
    """What processes hold on the host, shared pages shared out among those that map them [MB]."""
    return float(sum(process.memory_full_info().pss for process in processes) / 2**20)


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
    parser.add_argument("--neurons", type=int, nargs="+", default=[600])
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--restarts", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
