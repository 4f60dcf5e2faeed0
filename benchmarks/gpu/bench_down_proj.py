"""Claim: reading z and norm(h), and scaling, adds at most 1% to a step's feed-forward layers under a CUDA graph.

    python benchmarks/gpu/bench_down_proj.py [--shapes 8b 70b-tp8] [--batches 1 8 32 128 256] [--slots 32]

A stack of gated feed-forward layers with random bfloat16 weights, once plain and once with the taps of the vLLM engine
on every down projection, each captured in a CUDA graph and replayed turn about. Attention, which is not touched, is
left out: the ratio of whole steps is nearer to 1 than this one. Scores are computed after a step and not in here,
see bench_evidence.py. Needs no vLLM. Without a GPU the same runs eagerly on tiny layers, which shows that the script
works and nothing else.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from _interleaved import Spread

from probes.checkpoint import StoredBlock
from service.engines.vllm_plugin.buffers import TapBuffers
from service.engines.vllm_plugin.tap_config import TapConfig
from service.engines.vllm_plugin.wires import EagerSwitch, tap_module

SHAPES = {"8b": (4096, 14336, 8), "70b-tp8": (8192, 28672 // 8, 8), "tiny": (64, 192, 3)}
"""Hidden size, neurons of a layer on one rank, layers in the stack."""
BAR = 1.01


class FeedForward(nn.Module):
    """What Llama has between two attentions, without the norm."""

    def __init__(self, hidden: int, width: int, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden, 2 * width, bias=False, dtype=dtype, device=device)
        self.down_proj = nn.Linear(width, hidden, bias=False, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """Residual stream in, residual stream out."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return x + self.down_proj(nn.functional.silu(gate) * up)


def main() -> None:
    args = parse_arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        print("no GPU: eager on tiny layers, the figures mean nothing")
    shapes = args.shapes if device == "cuda" else ["tiny"]
    for shape in shapes:
        for batch in args.batches:
            ratio, plain = measure(shape, batch, device, args)
            verdict = "no claim" if device == "cpu" else "met" if ratio.median <= BAR else "missed"
            print(
                f"{shape} batch {batch}: plain {plain.text(4)} ms, guarded over plain {ratio.text(4)} "
                f"(bar {BAR}: {verdict})"
            )


def measure(shape: str, batch: int, device: str, args: argparse.Namespace) -> tuple[Spread, Spread]:
    """Spread of the ratio, and of the plain side [ms]."""
    torch.compiler.reset()  # otherwise torch gives up compiling the same code for yet another shape
    sides = [make_step(shape, batch, device, args.slots, is_tapped=is_tapped) for is_tapped in (True, False)]
    times: list[list[float]] = [[], []]
    for at in range(args.rounds + 1):
        for side in (0, 1) if at % 2 else (1, 0):
            took = time_of(sides[side], device, args.replays)
            if at:
                times[side].append(took)
    return Spread.of([a / b for a, b in zip(*times, strict=True)]), Spread.of(times[1])


@torch.inference_mode()
def make_step(shape: str, batch: int, device: str, slots: int, *, is_tapped: bool) -> Callable[[], object]:
    """A function that runs the stack once; a graph replay on a GPU."""
    hidden, width, n_layers = SHAPES[shape]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    layers = nn.Sequential(*(FeedForward(hidden, width, dtype, device) for _ in range(n_layers)))
    stack: Callable[[Tensor], Tensor] = layers
    if is_tapped:
        tap(layers, width, slots, batch, device, dtype)
    if device == "cuda":
        stack = torch.compile(layers, dynamic=False, fullgraph=True)
    x = torch.randn(batch, hidden, dtype=dtype, device=device)
    if device == "cpu":
        return lambda: stack(x)
    for _ in range(3):
        stack(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stack(x)
    return graph.replay


def tap(layers: nn.Sequential, width: int, slots: int, rows: int, device: str, dtype: torch.dtype) -> None:
    """Every slot of every layer in use, half of them scaled."""
    config = TapConfig(tuple(StoredBlock(str(at), str(at), width) for at in range(len(layers))), slots)
    buffers = TapBuffers(config, [width] * len(layers), rows, device=device, dtype=dtype)
    index = [torch.randperm(width)[:slots].tolist() for _ in layers]
    ones = [[1.0] * slots for _ in layers]
    buffers.write(0, index, ones, [[1.0] * slots * len(layers)], [[at % 2 for at in range(slots)] for _ in layers])
    for layer, mine in zip(layers, buffers.blocks, strict=True):
        tap_module(layer.down_proj, mine, EagerSwitch())


def time_of(step: Callable[[], object], device: str, replays: int) -> float:
    """Milliseconds a step."""
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in range(replays):
            step()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began) / replays


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=["8b", "70b-tp8"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128, 256])
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--replays", type=int, default=50)
    return parser.parse_args()


if __name__ == "__main__":
    main()
