"""A stand-in for vLLM's layer of routed experts, with a fused kernel, shared experts and ranks; its numbers by hand."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import silu

from probes.checkpoint import StoredBlock
from service.engines.vllm_plugin.buffers import TapBuffers
from service.engines.vllm_plugin.expert_wires import tap_experts
from service.engines.vllm_plugin.step_tap import StepTap
from service.engines.vllm_plugin.tap_config import TapConfig
from service.engines.vllm_plugin.wires import EagerSwitch, tap_module, tap_output

SIZE, EXPERTS, INNER, SHARED, TOP, ROWS = 8, 4, 6, 10, 2, 16


SCALE = 2.5


CONFIG = TapConfig(
    (
        StoredBlock("mlp.experts", "mlp", EXPERTS * INNER, expert_width=INNER),
        StoredBlock("mlp.shared.down", "mlp", SHARED),
    ),
    slots=3,
    heads=1,
)


INDEX = [[2, 13, -1], [7, -1, 0]]


SCALED = [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 0]]]
"""Of each bank."""


WEIGHTS = [[1.0, -2.0, 0.0, 0.5, 0.0, 3.0]]


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Routed(nn.Module):
    """As vLLM's `RoutedExperts`: a fused kernel that writes its output over its input."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = random(EXPERTS, INNER, SIZE, seed=0), random(EXPERTS, INNER, SIZE, seed=1)
        self.down = random(EXPERTS, SIZE, INNER, seed=2)

    def z(self, x: torch.Tensor) -> torch.Tensor:
        """Without routing weights [rows, E, I]."""
        return silu(torch.einsum("rd,eid->rei", x, self.gate)) * torch.einsum("rd,eid->rei", x, self.up)

    def forward_modular(self, x, topk_weights, topk_ids, shared_experts=None, shared_experts_input=None):
        picked = (torch.arange(EXPERTS) == topk_ids[:, :, None]) * topk_weights[:, :, None]
        return x.copy_(torch.einsum("rei,edi,re->rd", self.z(x), self.down, picked.sum(1)))


class SharedDown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = random(SIZE, SHARED, seed=3)

    def forward(self, input_):
        return input_ @ self.weight.T, None


class Mixture(nn.Module):
    """A layer's block: the routing weights are a part of what the output is scaled by."""

    def __init__(self) -> None:
        super().__init__()
        self.routed, self.shared, self.router = Routed(), SharedDown(), random(EXPERTS, SIZE, seed=4)
        self.inner = random(SHARED, SIZE, seed=5)

    def route(self, x):
        weights, ids = (x @ self.router.T).softmax(-1).topk(TOP)
        return weights, ids.int()

    def forward(self, x):
        shared, _ = self.shared(torch.tanh(x @ self.inner.T))
        return self.routed.forward_modular(x.clone(), *self.route(x)) * SCALE + shared


class Rank:
    """A tapped layer and its step."""

    def __init__(self, *, rank: int = 0) -> None:
        self.block, self.switch = Mixture(), EagerSwitch()
        # The shared experts' neurons are spread over ranks; here rank 0 has them all.
        self.buffers = TapBuffers(CONFIG, (EXPERTS * INNER, SHARED), ROWS, rank=rank, size=SIZE)
        routed, shared = self.buffers.blocks
        tap_experts(self.block.routed, routed, self.switch, scale=SCALE)
        tap_module(self.block.shared, shared, self.switch, gives_h=False)
        tap_output(self.block, self.buffers.h_norm, self.switch)
        self.step = StepTap(self.buffers, self.switch, lambda sums: sums)
        slots = [(slot, *divmod(j, INNER)) for slot, j in enumerate(INDEX[0]) if j >= 0]
        parts = self.block.routed
        rows = [torch.stack([parts.gate[e, i], parts.up[e, i], parts.down[e, :, i]]) for _, e, i in slots]
        self.buffers.write_routed(
            [slot for slot, *_ in slots], [e for _, e, _ in slots], torch.stack(rows).numpy().tobytes()
        )
        for bank in range(2):
            weights = (np.asarray(WEIGHTS) * (bank + 1)).tolist()
            self.buffers.write(bank, INDEX, self.norms().tolist(), weights, SCALED[bank])

    def norms(self) -> torch.Tensor:
        norms = torch.zeros(2, 3)
        for slot, j in enumerate(INDEX[0]):
            if j >= 0:
                norms[0, slot] = self.block.routed.down[j // INNER, :, j % INNER].norm()
        for slot, j in enumerate(INDEX[1]):
            if j >= 0:
                norms[1, slot] = self.block.shared.weight[:, j].norm()
        return norms

    def run(self, x, taps, counts, read_rows):
        self.step.begin(taps, counts, torch.tensor(read_rows))
        return self.block(x)


def expected(x: torch.Tensor, bank: int = 0, alpha: float = 1.0):
    """h, and CETT of all slots, of one row x [D]; one expert at a time."""
    block = Mixture()
    weights, ids = block.route(x[None])
    h, z = torch.zeros(SIZE), torch.zeros(2, 3)
    inside = torch.tanh(x @ block.inner.T)
    for slot, j in enumerate(INDEX[1]):
        if j >= 0:
            z[1, slot] = inside[j]
            if SCALED[bank][1][slot]:
                inside[j] *= alpha
    h += block.shared.weight @ inside
    for weight, expert in zip(weights[0], ids[0].tolist(), strict=True):
        inside = block.routed.z(x[None])[0, expert] * weight * SCALE
        for slot, j in enumerate(INDEX[0]):
            if j >= 0 and j // INNER == expert:
                z[0, slot] = inside[j % INNER]
                if SCALED[bank][0][slot]:
                    inside[j % INNER] *= alpha
        h += block.routed.down[expert] @ inside
    return h, (z.abs() * Rank().norms() / (h.norm() + 1e-8)).flatten()
