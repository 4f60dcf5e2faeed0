"""The parts of the vLLM plugin that need no vLLM: what the two sides agree on, buffers, taps, one step."""

import numpy as np
import pytest
import torch
from torch import nn

from probes.cett import cett
from probes.checkpoint import StoredBlock
from service.engines.vllm_plugin.buffers import TapBuffers, _local_columns
from service.engines.vllm_plugin.row_signals import RowSignals
from service.engines.vllm_plugin.step_tap import StepTap, evidence
from service.engines.vllm_plugin.tap_config import RequestTap, TapConfig
from service.engines.vllm_plugin.wires import EagerSwitch, tap_module

WIDTH, ROWS = 12, 80
CONFIG = TapConfig(tuple(StoredBlock(name, name, WIDTH) for name in ("layers.0", "layers.1")), slots=4, heads=2)
INDEX = [[3, 7, -1, 11], [0, -1, 5, -1]]
SCALED = [[[0, 1, 0, 1], [1, 0, 0, 0]], [[1, 0, 0, 0], [0, 0, 1, 0]]]
"""Of each bank."""
WEIGHTS = [[0.5, -1, 0, 2, 1, 0, -3, 0], [1, 1, 0, 1, 1, 0, 1, 0]]


class Down(nn.Module):
    """A down projection as vLLM's: it returns h and a bias that is not added."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(seed))

    def forward(self, input_):
        return input_ @ self.weight.T, None


class Rank:
    """Two tapped layers and their step."""

    def __init__(self, *, banks: int = 1) -> None:
        self.downs, self.switch = [Down(0), Down(1)], EagerSwitch()
        self.buffers = TapBuffers(CONFIG, (WIDTH, WIDTH), ROWS)
        for down, buffers in zip(self.downs, self.buffers.blocks, strict=True):
            tap_module(down, buffers, self.switch)
        self.step = StepTap(self.buffers, self.switch, lambda sums: sums)
        norms = [[self.norm(layer, j) for j in row] for layer, row in enumerate(INDEX)]
        for bank in range(banks):
            weights = (np.asarray(WEIGHTS) * (bank + 1)).tolist()
            self.buffers.write(bank, INDEX, norms, weights, SCALED[bank])

    def norm(self, layer: int, j: int) -> float:
        return float(self.downs[layer].weight[:, j].norm()) if j >= 0 else 0.0

    def run(self, z: list[torch.Tensor], taps, counts, read_rows) -> list[torch.Tensor]:
        self.step.begin(taps, counts, torch.tensor(read_rows))
        return [down(one)[0] for down, one in zip(self.downs, z, strict=True)]

    def expected(self, z: list[torch.Tensor], row: int, bank: int = 0, alpha: float = 1.0):
        """CETT of all slots and scores of one row; z is read before, h after it is scaled."""
        slots = torch.zeros(2, 4)
        for layer in range(2):
            neurons = [(slot, j) for slot, j in enumerate(INDEX[layer]) if j >= 0]
            inside = z[layer][row].clone()
            for slot, j in neurons:
                if SCALED[bank][layer][slot]:
                    inside[j] *= alpha
            h = self.downs[layer].weight @ inside
            for slot, j in neurons:
                slots[layer, slot] = cett(z[layer][row][j], h, torch.tensor(self.norm(layer, j)))
        return slots.flatten(), torch.tensor(WEIGHTS) * (bank + 1) @ slots.flatten()


def activations(rows: int, seed: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, WIDTH, generator=generator) for _ in range(2)]


def test_scores_of_the_rows_that_are_read():
    rank, z = Rank(), activations(7)
    rank.run(z, [RequestTap(), RequestTap()], [4, 3], [3, 6])
    found = rank.step.read()
    assert torch.allclose(found, torch.stack([rank.expected(z, row)[1] for row in (3, 6)]), atol=1e-5)
    again = rank.step.read(torch.tensor([1, 0, 1]), torch.tensor([1, 0, 1]))
    assert torch.equal(again, found[[1, 0, 1]])


@pytest.mark.parametrize("rows", [3, 64, 65, 80])
def test_hazard_small_passes_are_read_later_than_large_ones(rows):
    rank = Rank()
    for seed in (5, 6):
        z = activations(rows, seed)
        h = rank.run(z, [RequestTap(), RequestTap()], [1, rows - 1], [0, rows - 1])
        expected = torch.stack([rank.expected(z, row)[1] for row in (0, rows - 1)])
        h[0].zero_()  # as vLLM's fused norms write over h while later layers run
        assert torch.allclose(rank.step.read(), expected, atol=1e-5)
        assert not rank.switch.later  # nothing is held until the next pass


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_hazard_rows_in_a_batch_of_one_are_taken_for_one_row(alpha):
    """vLLM's back end for models of transformers feeds [1, rows, M]."""
    rank, z = Rank(), activations(5)
    rank.step.begin([RequestTap(0, alpha)], [5], torch.tensor([4]))
    h = [down(one[None])[0] for down, one in zip(rank.downs, z, strict=True)]
    assert [one.shape for one in h] == [(1, 5, 8), (1, 5, 8)]
    assert torch.allclose(rank.step.read(), rank.expected(z, 4, alpha=alpha)[1], atol=1e-5)


def test_hazard_alphas_and_banks_of_neighbours_are_mixed_up():
    rank, z = Rank(banks=2), activations(9)
    taps = [RequestTap(0, 0.0), RequestTap(1, 0.5), RequestTap(1, 1.0), None, RequestTap(0, 3.0, wants_cett=True)]
    h = rank.run(z, taps, [2, 1, 3, 2, 1], [1, 2, 5, 7, 8])
    found = rank.step.read()
    for at, (row, tap) in enumerate(zip((1, 2, 5, 7, 8), taps, strict=True)):
        slots, scores = rank.expected(z, row, *((tap.bank, tap.alpha) if tap else ()))
        assert torch.allclose(found[at], torch.cat([scores, slots]), atol=1e-5)
    plain = [one @ down.weight.T for one, down in zip(z, rank.downs, strict=True)]
    for layer in range(2):
        assert torch.allclose(h[layer][3:8], plain[layer][3:8], atol=1e-6)
        assert not torch.allclose(h[layer][0], plain[layer][0], atol=1e-2)


def test_hazard_alpha_of_an_earlier_step_stays():
    """A compiled graph scales in every pass, so the buffer must say 1 where nobody asks for anything else."""
    rank, z = Rank(), activations(6)
    rank.run(z, [RequestTap(0, 0.0)] * 2, [3, 3], [2, 5])
    rank.run(z, [RequestTap(), None], [4, 2], [3, 5])
    assert (rank.buffers.alpha[:6] == 1).all()
    assert not rank.switch.scales
    h = rank.run(z, [None], [6], [5])
    assert all(torch.equal(a, b @ down.weight.T) for a, b, down in zip(h, z, rank.downs, strict=True))
    assert not rank.switch.reads
    rank.run(z, [RequestTap(0, 0.5)] * 2, [3, 3], [2, 5])
    rank.run([one[:2] for one in z], [RequestTap()], [2], [1])
    assert (rank.buffers.alpha == 1).all(), "a third step may have more rows than the second"


def test_hazard_a_layer_that_does_not_run_leaves_the_scores_of_an_earlier_step():
    rank, z = Rank(), activations(6)
    rank.run(z, [RequestTap()] * 2, [3, 3], [2, 5])
    assert rank.step.read().isfinite().all()
    rank.step.begin([RequestTap(), RequestTap()], [3, 3], torch.tensor([2, 5]))
    rank.downs[0](z[0])
    assert rank.step.read().isnan().all()
    rank.run(z, [RequestTap(first_row=1)], [6], [5])
    assert rank.step.columns_of_rows(torch.arange(6), 0).isfinite().all()
    rank.step.begin([RequestTap(first_row=1)], [6], torch.tensor([5]))
    rank.downs[1](z[1])
    assert rank.step.columns_of_rows(torch.arange(6), 0).isnan().all()  # every row of a prompt


def test_hazard_a_rank_counts_neurons_of_another():
    ranks = []
    whole = [[1, 7, -1, 11], [0, 6, 5, -1]]
    for rank in range(2):
        buffers = TapBuffers(CONFIG, (6, 6), ROWS, rank=rank)
        buffers.write(1, whole, np.ones((2, 4)).tolist(), WEIGHTS, SCALED[0])
        for layer in buffers.blocks:
            layer.z.fill_(2.0)
            layer.h_norm.fill_(1.0)
        ranks.append(buffers.cett(torch.tensor([3]))[0].tolist())
    assert ranks == [[2, 0, 0, 0, 2, 0, 2, 0], [0, 2, 0, 2, 0, 2, 0, 0]]


def test_hazard_an_empty_slot_undoes_what_another_slot_scales():
    index = np.asarray([[0, 1, -1, 9], [5, -1, -1, 4]])
    columns, norms = _local_columns(index, np.full((2, 4), 7, np.float32), (6, 6), 0)
    assert columns.tolist() == [[0, 1, 2, 2], [5, 0, 0, 4]]
    assert norms.tolist() == [[7, 7, 0, 0], [7, 0, 0, 7]]
    columns, _ = _local_columns(index, np.ones((2, 4), np.float32), (6, 6), 1)
    assert columns.tolist() == [[0, 0, 0, 3], [0, 0, 0, 0]]
    full = np.asarray([[0, 1, 2, 3]])
    assert _local_columns(full, np.ones((1, 4), np.float32), (4,), 0)[0].tolist() == [[0, 1, 2, 3]]
    with pytest.raises(ValueError, match="layer 0 has 3 neurons on this rank"):
        _local_columns(full, np.ones((1, 4), np.float32), (3,), 0)


def test_evidence_columns():
    logits = torch.randn(5, 70, generator=torch.Generator().manual_seed(1))
    logits[2, 3:] = -torch.inf
    ids = torch.tensor([4, 0, 2, 69, 7])
    measured = RowSignals(is_compiled=False).measure(logits)
    found = evidence(logits, measured, ids, torch.arange(10.0).reshape(5, 2))
    p = logits.double().softmax(-1)
    assert torch.allclose(found[:, 0].double(), p[range(5), ids].log(), atol=1e-5)
    assert torch.allclose(found[:, 1].double(), torch.special.entr(p).sum(-1), atol=1e-5)
    assert found[:, 2:].flatten().tolist() == list(range(10))


def test_both_sides_agree_on_the_configuration():
    assert TapConfig.of(CONFIG.additional_config()) == CONFIG
    assert (CONFIG.columns, CONFIG.wide_columns) == (4, 12)
    for tap in (RequestTap(), RequestTap(1, 0.5, True, 7)):
        assert RequestTap.of(tap.extra_args()) == tap
        assert RequestTap.of({"hguard": list(tap.extra_args()["hguard"])}) == tap  # as it comes out of msgpack
    assert RequestTap.of(None) is None
    assert RequestTap.of({"other": 1}) is None
    with pytest.raises(ValueError, match="start vLLM through HGUARD_ENGINE=vllm"):
        TapConfig.of({"other": 1})
    with pytest.raises(ValueError, match="speaks protocol 99"):
        TapConfig.of({"hguard": {**CONFIG.additional_config()["hguard"], "protocol": 99}})


def test_hazard_a_compiled_pass_differs_from_an_eager_one():
    """The compiled branch has other operations, and takes no notice of the switch."""
    eager, compiled, z = Rank(), Rank(), activations(6)
    compiled.switch.scales = compiled.switch.reads = False
    run = torch.compile(lambda one, other: (compiled.downs[0](one)[0], compiled.downs[1](other)[0]), backend="eager")
    for taps in ([RequestTap(0, 0.5), RequestTap()], [RequestTap(), RequestTap()]):
        expected = eager.run(z, taps, [3, 3], [2, 5])
        compiled.step.begin(taps, [3, 3], torch.tensor([2, 5]))
        for a, b in zip(run(*z), expected, strict=True):
            assert torch.allclose(a, b, atol=1e-6)
        assert torch.allclose(compiled.step.read(), eager.step.read(), atol=1e-6)
