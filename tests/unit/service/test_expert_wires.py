"""Taps on routed experts, with a stand-in for vLLM's classes: a fused kernel, routing, shared experts, ranks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from probes.checkpoint import StoredBlock
from service.engines.vllm_plugin.buffers import TapBuffers
from service.engines.vllm_plugin.compat import IncompatibleVllmError, check_experts
from service.engines.vllm_plugin.expert_wires import tap_experts
from service.engines.vllm_plugin.step_tap import StepTap
from service.engines.vllm_plugin.tap_config import RequestTap, TapConfig
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


TAPS = [RequestTap(0, 0.0), RequestTap(1, 0.5), RequestTap(1, 1.0), None, RequestTap(0, 2.0, wants_cett=True)]
COUNTS, READ = [2, 1, 3, 2, 1], [1, 2, 5, 7, 8]
PLACES = [0, 0, 1, 2, 2, 2, 3, 3, 4]
"""Which of the requests each row belongs to."""


def check_rows(found: torch.Tensor, h: torch.Tensor, x: torch.Tensor) -> None:
    for at, row in enumerate(READ):
        slots = expected(x[row], *((TAPS[at].bank, TAPS[at].alpha) if TAPS[at] else ()))[1]
        factor = 1 + (TAPS[at].bank if TAPS[at] else 0)
        assert torch.allclose(
            found[at], torch.cat([factor * torch.tensor(WEIGHTS[0]) @ slots[:, None], slots]), atol=1e-5
        )
    for row, place in enumerate(PLACES):
        tap = TAPS[place] or RequestTap()
        assert torch.allclose(h[row], expected(x[row], tap.bank, tap.alpha)[0], atol=1e-5)


def test_hazard_alphas_of_neighbours_or_the_kernels_own_output_are_read():
    rank, x = Rank(), random(9, SIZE, seed=9)
    h = rank.run(x, TAPS, COUNTS, READ)
    found = rank.step.read()
    check_rows(found, h, x)
    assert (found[:, 1] == 0).any(), "some row chose another expert than the neuron's"
    assert (found[:, 1:3] != 0).any(dim=0).all(), "every routed neuron's expert was chosen by some row"


def test_hazard_a_compiled_pass_differs_from_an_eager_one():
    rank, x = Rank(), random(9, SIZE, seed=9)
    rank.step.begin(TAPS, COUNTS, torch.tensor(READ))
    rank.switch.reads = rank.switch.scales = False
    h = torch.compile(rank.block, backend="eager", fullgraph=True)(x)
    check_rows(rank.step.read(), h, x)


def test_hazard_a_part_that_does_not_run_leaves_the_numbers_of_an_earlier_step():
    rank, x = Rank(), random(6, SIZE, seed=9)
    rank.run(x, [RequestTap()] * 2, [3, 3], [2, 5])
    assert rank.step.read().isfinite().all()
    for lost in (rank.block.routed, rank.block.shared, rank.block):
        kept = {name: lost.__dict__.pop(name) for name in ("forward_modular", "forward") if name in lost.__dict__}
        rank.run(x, [RequestTap(first_row=1)], [6], [5])
        assert rank.step.columns_of_rows(torch.arange(6), 0).isnan().all()
        lost.__dict__.update(kept)
    rank.run(x, [RequestTap()] * 2, [3, 3], [2, 5])
    assert rank.step.read().isfinite().all()


def test_hazard_every_rank_counts_and_suppresses_the_same_routed_neuron():
    """Input and routing are the same on all ranks, and their outputs are summed."""
    x, taps = random(4, SIZE, seed=9), [RequestTap(0, 0.5, wants_cett=True)]
    first, second = Rank(), Rank(rank=1)
    for rank in (first, second):
        rank.run(x, taps, [4], [3])
    assert (first.step.read()[0, 1:4] > 0).sum() > 0
    assert (second.step.read()[0, 1:] == 0).all()
    weights, ids = first.block.route(x)
    plain = Mixture().routed.forward_modular(x.clone(), weights, ids)
    assert not torch.allclose(first.block.routed.forward_modular(x.clone(), weights, ids), plain, atol=1e-3)
    assert torch.equal(second.block.routed.forward_modular(x.clone(), weights, ids), plain)


def test_hazard_nobody_asks_and_the_model_is_not_the_plain_one():
    rank, x = Rank(), random(4, SIZE, seed=9)
    assert torch.equal(rank.run(x, [None], [4], [3]), Mixture()(x))
    assert torch.equal(rank.run(x, [RequestTap()], [4], [3]), Mixture()(x))


class MoERunner:
    """What `check_experts` reads of vLLM's."""

    def __init__(self) -> None:
        self.routed_experts = Routed()
        self.routed_experts.quant_method = SimpleNamespace(is_monolithic=False)
        self.routed_experts.activation = SimpleNamespace(value="silu")
        self.routed_experts.apply_router_weight_on_input = False
        self.routed_input_transform = self.routed_output_transform = None
        self.routed_scaling_factor = 2.5
        self.moe_config = SimpleNamespace(
            has_bias=False,
            dp_size=1,
            skip_final_all_reduce=False,
            is_sequence_parallel=False,
            in_dtype=torch.bfloat16,
            moe_parallel_config=SimpleNamespace(enable_eplb=False, use_ep=False),
        )


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("routed_experts.quant_method.is_monolithic", True, "moe_backend"),
        ("routed_experts.activation.value", "gelu", "activation gelu"),
        ("routed_experts.apply_router_weight_on_input", True, "on the input"),
        ("routed_input_transform", nn.Identity(), "projections"),
        ("routed_output_transform", nn.Identity(), "projections"),
        ("moe_config.has_bias", True, "biases"),
        ("moe_config.dp_size", 2, "data_parallel_size"),
        ("moe_config.skip_final_all_reduce", True, "not summed"),
        ("moe_config.is_sequence_parallel", True, "not summed"),
        ("moe_config.in_dtype", torch.float16, "float16"),
        ("moe_config.moe_parallel_config.enable_eplb", True, "enable_eplb"),
        ("moe_config.moe_parallel_config.use_ep", True, "enable_expert_parallel"),
    ],
)
def test_hazard_experts_that_work_otherwise_are_refused(path, value, word):
    check_experts("experts", MoERunner(), "1.0")
    module = MoERunner()
    *parts, last = path.split(".")
    owner = module
    for part in parts:
        owner = getattr(owner, part)
    setattr(owner, last, value)
    with pytest.raises(IncompatibleVllmError, match=f"experts of this model.*{word}"):
        check_experts("experts", module, "1.0")


def test_hazard_another_vllm_runs_experts_otherwise():
    module = MoERunner()
    module.routed_experts = nn.Linear(2, 2)
    with pytest.raises(IncompatibleVllmError, match=r"vLLM 1\.0: experts is a MoERunner .* install one of those"):
        check_experts("experts", module, "1.0")
    with pytest.raises(IncompatibleVllmError, match=r"experts is a Linear"):
        check_experts("experts", nn.Linear(2, 2), "1.0")
