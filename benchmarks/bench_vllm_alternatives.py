"""What it costs to read activations out of vLLM: the guard, and what one would do otherwise; ratios to plain, no bar.

    python benchmarks/bench_vllm_alternatives.py [--ways guard hooks hidden-states] [--concurrency 1 8] [--tokens 64]

Each way beside plain vLLM of the same settings, eager, the same requests to one and the other, turn about:

guard          the vllm engine: K neurons scored, with log-probability and entropy
hooks          a forward hook on every down projection that appends z of every fed row to a list on the host
hidden-states  vLLM's own extraction (speculative method `extract_hidden_states`) of the residual stream before every
               layer, which is not z; on a GPU with its connector, which writes a file a request. On a CPU the connector
               fails at the end of the first request (it copies into pinned memory), so only the copies into vLLM's
               cache are timed there.

Two engines are alive at a time. Needs vLLM (`make vllm`).
"""

import argparse
import asyncio
import platform
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import torch
from _interleaved import compare
from bench_vllm import QUESTION, random_bank, read_guarded, read_plain, start_guarded, start_plain, timed

from probes.checkpoint import Checkpoint
from probes.models import DEFAULT_MODEL, load_tokenizer, pick_dtype, resolve_model
from probes.prompts import encode_prompt

Side = Callable[[int], Callable[[], Awaitable[float]]]
"""Concurrency -> a function that runs so many requests and returns milliseconds a token."""
Close = Callable[[], Awaitable[None]]


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(measure(resolve_model(args.model), args, scratch))


async def measure(folder: Path, args: argparse.Namespace, scratch: str) -> None:
    is_gpu = torch.cuda.is_available()
    dtype = str(pick_dtype(args.dtype, torch.device("cuda" if is_gpu else "cpu"))).removeprefix("torch.")
    options: dict[str, Any] = {
        "enforce_eager": True,
        "max_num_seqs": max(args.concurrency),
        "max_model_len": 1024,
        **({"gpu_memory_utilization": args.gpu_share} if is_gpu else {"kv_cache_memory_bytes": 1 << 30}),
    }
    prompt = encode_prompt(load_tokenizer(folder), QUESTION)
    print(
        f"{args.model} {dtype}, vLLM eager on {'cuda' if is_gpu else 'cpu'}, {platform.machine()}, "
        f"torch {torch.__version__}; {args.tokens} tokens, {args.rounds} rounds"
    )
    plain = await start_plain(folder, dtype, options)
    for way in args.ways:
        side, close = await _WAYS[way](folder, dtype, args, options, prompt, scratch)
        for concurrency in args.concurrency:
            result = await compare(
                side(concurrency),
                timed(lambda at: read_plain(plain, prompt, args.tokens, at), concurrency, args.tokens),
                rounds=args.rounds,
            )
            print(
                f"{way}, concurrency {concurrency}: {result.first.text(2)} ms a token, plain {result.second.text(2)}, "
                f"ratio {result.ratio.text()}",
                flush=True,
            )
        await close()
    plain.shutdown()


async def guard(
    folder: Path, _dtype: str, args: argparse.Namespace, options: dict[str, Any], prompt: list[int], _scratch: str
) -> tuple[Side, Close]:
    engine = await start_guarded(folder, args, options)
    await engine.load_heads(random_bank(engine, args.neurons))
    return lambda n: timed(lambda at: read_guarded(engine, prompt, args.tokens, at), n, args.tokens), engine.close


async def hooks(
    folder: Path, dtype: str, args: argparse.Namespace, options: dict[str, Any], prompt: list[int], _scratch: str
) -> tuple[Side, Close]:
    engine = await start_plain(folder, dtype, {**options, "worker_extension_cls": "_hooked_worker.HookedWorker"})
    n_layers = (await engine.collective_rpc("keep_activations"))[0]

    def side(concurrency: int) -> Callable[[], Awaitable[float]]:
        run = timed(lambda at: read_plain(engine, prompt, args.tokens, at), concurrency, args.tokens)

        async def once() -> float:
            took = await run()
            kept = (await engine.collective_rpc("drop_activations"))[0]
            assert kept >= n_layers * concurrency * (args.tokens - 1), "the hooks did not run"
            return took

        return once

    return side, closing(engine)


async def hidden_states(
    folder: Path, dtype: str, args: argparse.Namespace, options: dict[str, Any], prompt: list[int], scratch: str
) -> tuple[Side, Close]:
    n_layers = len(Checkpoint(folder).widths)
    draft = {"hf_config": {"eagle_aux_hidden_state_layer_ids": list(range(n_layers))}}
    extraction: dict[str, Any] = {
        "speculative_config": {
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": draft,
        }
    }
    if torch.cuda.is_available():
        extraction["kv_transfer_config"] = {
            "kv_connector": "ExampleHiddenStatesConnector",
            "kv_role": "kv_producer",
            "kv_connector_extra_config": {"shared_storage_path": scratch},
        }
    engine = await start_plain(folder, dtype, {**options, **extraction})
    return lambda n: timed(lambda at: read_plain(engine, prompt, args.tokens, at), n, args.tokens), closing(engine)


def closing(engine: Any) -> Close:
    async def close() -> None:
        engine.shutdown()

    return close


_WAYS = {"guard": guard, "hooks": hooks, "hidden-states": hidden_states}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=sorted(_WAYS), default=["guard", "hooks", "hidden-states"])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--gpu-share", type=float, default=0.45, help="of a GPU's memory, for each of the two")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--neurons", type=int, default=600)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    args.model_shape = None
    return args


if __name__ == "__main__":
    main()
