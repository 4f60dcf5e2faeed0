"""Claim: guarded generation takes at most 1.05 times the time per token of unguarded generation, batch 1 and 8.

Both sides run through the transformers engine of the service, the same requests with scoring on and off, turn about.
The time is that of whole requests: prefill, every step, and the one more that the `own` position rule feeds at the end.

    python benchmarks/bench_guard.py [--probe FOLDER] [--batches 1 8] [--tokens 64] [--rounds 15]
"""

import argparse
import asyncio
import platform
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import numpy as np
import torch
from _interleaved import compare

from probes.architectures import layer_widths
from probes.artifact import load_artifact
from probes.models import DEFAULT_MODEL, resolve_model
from probes.neurons import NeuronSet
from probes.prompts import encode_prompt
from service.engines.base import EngineRequest, HeadBank, RequestTiming
from service.engines.transformers_engine import TransformersEngine

BAR = 1.05
QUESTION = "Write a long story about a lighthouse keeper who finds a map."


def random_bank(engine: TransformersEngine, n_neurons: int, n_h_neurons: int, position: str) -> HeadBank:
    """A bank of random neurons: the cost does not depend on which."""
    random = np.random.default_rng(0)
    widths = layer_widths(engine.model)
    neurons = NeuronSet.from_flat(widths, random.choice(sum(widths), size=n_neurons, replace=False))
    weights = random.normal(size=(1, n_neurons)).astype(np.float32)
    h_neurons = np.sort(random.choice(n_neurons, size=n_h_neurons, replace=False))
    return HeadBank(("probe",), neurons, weights, h_neurons, "own" if position == "own" else "predicting")


def probe_bank(folder: Path) -> HeadBank:
    """The bank of a trained probe."""
    probe = load_artifact(folder).probe
    return HeadBank(("probe",), probe.neurons, probe.weights[None], probe.h_neurons, probe.position)


def generation(
    engine: TransformersEngine, prompt: list[int], args: argparse.Namespace, batch: int, *, is_scored: bool
) -> Callable[[], Awaitable[float]]:
    """A side of the comparison: milliseconds a token and row of `batch` requests that run together."""
    alpha = args.alpha if is_scored else 1.0
    request = EngineRequest("bench", tuple(prompt), args.tokens, alpha=alpha, is_scored=is_scored)

    async def read() -> None:
        async with aclosing(engine.generate(request, RequestTiming())) as steps:
            async for _ in steps:
                pass

    async def run() -> float:
        began = time.perf_counter()
        await asyncio.gather(*(read() for _ in range(batch)))
        return 1000 * (time.perf_counter() - began) / args.tokens

    return run


async def measure(args: argparse.Namespace) -> bool:
    """Print both sides and the ratio for each batch size; True where all are within the bar."""
    folder = resolve_model(args.model)
    engine = TransformersEngine(folder, model_name=args.model, dtype=args.dtype, max_rows=max(args.batches))
    engine._worker.stop_ids = frozenset()  # every run has the same number of tokens
    await engine.start()
    bank = probe_bank(args.probe) if args.probe else random_bank(engine, args.neurons, args.h_neurons, args.position)
    await engine.load_heads(bank)
    prompt = encode_prompt(engine.tokenizer, QUESTION)
    print(
        f"{args.model} {engine.dtype} on {engine.device}, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"torch {torch.__version__}; {len(bank.neurons)} neurons, {len(bank.suppressed)} H-neurons, "
        f"rule {bank.position}, alpha {args.alpha}; prompt {len(prompt)}, {args.tokens} tokens, {args.rounds} rounds"
    )
    is_within = True
    for batch in args.batches:
        guarded = generation(engine, prompt, args, batch, is_scored=True)
        unguarded = generation(engine, prompt, args, batch, is_scored=False)
        found = await compare(guarded, unguarded, rounds=args.rounds)
        is_within &= found.ratio.median <= BAR
        print(
            f"batch {batch}: guarded {found.first.text(2)} ms a token, unguarded {found.second.text(2)}, "
            f"ratio {found.ratio.text()} (bar {BAR})"
        )
    await engine.close()
    return is_within


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--probe", type=Path, help="probe artifact folder; random neurons where it is left out")
    parser.add_argument("--neurons", type=int, default=100)
    parser.add_argument("--h-neurons", type=int, default=60)
    parser.add_argument("--position", choices=("own", "predicting"), default="own")
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    if not asyncio.run(measure(args)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
