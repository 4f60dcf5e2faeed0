"""Token rows: streams, logits and free signals of every response token, beside a plain pass of one passage."""

import numpy as np
import pytest
import torch

from offline.locating import token_rows as module
from offline.locating.token_rows import read_tokens
from offline.stages import StageMismatchError
from probes.calibration import Calibration
from probes.domain import Domain, PartRange
from probes.neurons import NeuronSet
from probes.probe import Probe, ResidualHead
from probes.risk import RiskModel
from tests.reference.official_cett import official_cett
from tests.unit.offline.passages import make_passages
from tests.unit.offline.tiny_run import TinyRun, make_config, tiny_llama

LAYERS = (0, 1)
PASSAGES = make_passages(24)


def make_probe(position, *, residual=None):
    widths = tuple(layer.mlp.down_proj.in_features for layer in tiny_llama().model.layers)
    neurons = NeuronSet.from_flat(widths, np.arange(1, sum(widths), 7))
    draw = np.random.default_rng(0)
    return Probe(
        name="tiny",
        version="1",
        neurons=neurons,
        weights=draw.normal(size=len(neurons)).astype(np.float32),
        norms=np.ones(len(neurons), dtype=np.float32),
        intercept=0.7,
        position=position,
        risk_model=RiskModel({"cett": 1.0}, 0.0, Calibration("platt")),
        domain=Domain({"cett": PartRange(-1.0, 0.0, 1.0)}, cutoff=1.0),
        threshold=0.5,
        residual=residual,
    )


class Configured(TinyRun):
    """A run that knows its model's sizes."""

    @property
    def checkpoint(self):
        class Checkpoint:
            widths = (0,) * 3

            class config:
                @staticmethod
                def get_text_config():
                    return tiny_llama().config

        return Checkpoint


def make_run(tmp_path):
    return Configured(make_config(tmp_path, extractor="transformers", device="cpu"))


@torch.inference_mode()
def plain(passage, probe):
    """Streams and numbers of one passage, token by token."""
    p, t = len(passage.prompt_ids), len(passage.response_ids)
    output = tiny_llama()(input_ids=torch.tensor([passage.token_ids]), output_hidden_states=True)
    cett = official_cett(tiny_llama(), list(passage.token_ids)).transpose(0, 1).flatten(1)
    streams, numbers = [], []
    for k in range(t):
        streams.append(torch.stack([output.hidden_states[layer + 1][0, p + k] for layer in LAYERS]))
        log_p = output.logits[0, p + k - 1].log_softmax(-1)
        row = p + k if probe.position == "own" else p + k - 1
        scores = [cett[row, torch.from_numpy(probe.neurons.flat)] @ torch.from_numpy(probe.weights)]
        if probe.residual:
            stream = output.hidden_states[probe.residual.layer + 1][0, row]
            scores.append(stream @ torch.from_numpy(probe.residual.weights))
        numbers.append([*scores, log_p[passage.response_ids[k]], -(log_p.exp() * log_p).sum()])
    return torch.stack(streams).numpy(), np.array(numbers, dtype=np.float64)


RESIDUAL = ResidualHead(1, np.linspace(-1, 1, tiny_llama().config.hidden_size, dtype=np.float32), 0.3)


@pytest.mark.parametrize("residual", [None, RESIDUAL], ids=["neurons", "and stream"])
@pytest.mark.parametrize("position", ["own", "predicting"])
def test_rows_are_those_of_plain_passes_token_by_token(tmp_path, position, residual):
    probe = make_probe(position, residual=residual)
    rows = read_tokens(make_run(tmp_path), PASSAGES, probe, LAYERS, tmp_path / "tokens")
    for at, passage in enumerate(PASSAGES):
        streams, numbers = plain(passage, probe)
        np.testing.assert_allclose(rows.streams[rows.of(at)], streams, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(rows.numbers[rows.of(at)], numbers, rtol=1e-4, atol=1e-4)
    expected = np.concatenate([rows.numbers[rows.of(5)], rows.numbers[rows.of(2)]])
    np.testing.assert_array_equal(rows.numbers[rows.at([5, 2])], expected)


def test_hazard_a_killed_run_starts_anew_or_keeps_torn_rows(tmp_path, monkeypatch):
    probe, run = make_probe("own"), make_run(tmp_path)
    read, original = [], module._Reader.read

    def killed(self, batch):
        if len(read) == 1:
            raise KeyboardInterrupt
        read.append(len(batch))
        return original(self, batch)

    def counted(self, batch):
        read.append(len(batch))
        return original(self, batch)

    monkeypatch.setattr(module, "BATCH_TOKENS", 40)
    monkeypatch.setattr(module._Reader, "read", killed)
    with pytest.raises(KeyboardInterrupt):
        read_tokens(run, PASSAGES, probe, LAYERS, tmp_path / "tokens")
    monkeypatch.setattr(module._Reader, "read", counted)
    rows = read_tokens(run, PASSAGES, probe, LAYERS, tmp_path / "tokens")
    assert sum(read) == len(PASSAGES)
    assert np.isfinite(rows.numbers).all()
    with pytest.raises(StageMismatchError, match="delete"):
        read_tokens(run, PASSAGES[1:], probe, LAYERS, tmp_path / "tokens")
