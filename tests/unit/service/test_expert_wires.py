"""Taps on routed experts, with a stand-in for vLLM's classes."""

import torch

from service.engines.vllm_plugin.tap_config import RequestTap
from tests.unit.service.routed_layer import SIZE, WEIGHTS, Mixture, Rank, expected, random

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
