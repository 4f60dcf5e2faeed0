"""What the vLLM engine does in a step outside of the model's graph: microseconds, no claim.

    python benchmarks/gpu/bench_evidence.py [--batches 1 8 32 128 256] [--vocabulary 128256] [--layers 32] [--slots 64]

Before the pass rows are marked unread; after it CETT and scores of the rows that are read, then norm and entropy of the
whole vocabulary, which grow with batch and vocabulary; plain vLLM takes neither when nobody asks for log-probabilities.
The sum beside a step of the model (5 ms for 16 GB of weights on a card that reads 3.3 TB/s) says what is left to gain
there. Runs on a CPU too, which shows that the script works and nothing else.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _interleaved import Spread

from probes.checkpoint import StoredBlock
from service.engines.vllm_plugin.buffers import TapBuffers
from service.engines.vllm_plugin.row_signals import RowSignals
from service.engines.vllm_plugin.step_tap import StepTap, evidence
from service.engines.vllm_plugin.tap_config import RequestTap, TapConfig
from service.engines.vllm_plugin.wires import EagerSwitch


@torch.inference_mode()
def main() -> None:
    args = parse_arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    config = TapConfig(tuple(StoredBlock(str(at), str(at), args.slots) for at in range(args.layers)), args.slots)
    buffers = TapBuffers(config, [args.slots] * args.layers, max(args.batches), device=device, dtype=dtype)
    signals = RowSignals(is_compiled=True)
    step = StepTap(buffers, EagerSwitch(), lambda scores: scores)
    for batch in args.batches:
        logits = torch.randn(batch, args.vocabulary, dtype=dtype, device=device)
        ids = torch.zeros(batch, dtype=torch.int64, device=device)
        rows = torch.arange(batch, dtype=torch.int32, device=device)
        scores = torch.zeros(batch, 4, device=device)
        parts: dict[str, Callable[[], object]] = {
            "before the pass": lambda rows=rows: step.begin([RequestTap()] * len(rows), [1] * len(rows), rows),
            "CETT and scores": step.read,
            "norm, entropy, columns": lambda logits=logits, ids=ids, scores=scores: evidence(
                logits, signals.measure(logits), ids, scores
            ),
        }
        shown = ", ".join(f"{name} {time_of(run, device, args).text(0)}" for name, run in parts.items())
        print(f"{device}, batch {batch}, microseconds: {shown}", flush=True)


def time_of(run: Callable[[], object], device: str, args: argparse.Namespace) -> Spread:
    """Microseconds a call; on a GPU of calls that are queued one behind the other."""
    took = []
    for _ in range(args.rounds + 1):
        began = time.perf_counter()
        for _ in range(args.repeats):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
        took.append(1e6 * (time.perf_counter() - began) / args.repeats)
    return Spread.of(took[1:])  # the first one compiles


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128, 256])
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--repeats", type=int, default=50)
    return parser.parse_args()


if __name__ == "__main__":
    main()
