"""An artifact comes back as it was written, or was not written at all."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from probes import artifact as module
from probes.artifact import load_artifact, save_artifact
from probes.calibration import Calibration
from tests.unit.probes.artifacts import PROMPTS, RESPONSES, make_artifact

torch.set_num_threads(1)


@pytest.mark.parametrize(
    "calibration",
    [Calibration("platt", slope=1 / 3, offset=-0.1), Calibration("isotonic", points=((-1.5, 0.1), (1 / 3, 0.7)))],
)
@pytest.mark.parametrize("position", ["own", "predicting"])
def test_an_artifact_comes_back_bit_for_bit(tmp_path, model, calibration, position):
    written = make_artifact(model, position=position, calibration=calibration, locator="response")
    made = save_artifact(tmp_path / "p" / "1", written, "# card é\n")
    read = load_artifact(tmp_path / "p" / "1")
    assert read.probe.neurons.widths == written.probe.neurons.widths
    for name in ("weights", "norms"):
        np.testing.assert_array_equal(getattr(read.probe, name), getattr(written.probe, name))
        assert getattr(read.probe, name).dtype == np.float32
    np.testing.assert_array_equal(read.probe.neurons.flat, written.probe.neurons.flat)
    for name in ("name", "version", "intercept", "position", "threshold", "locator", "risk_model", "domain", "budgets"):
        assert getattr(read.probe, name) == getattr(written.probe, name)
    assert read.model == written.model
    assert read.card == written.card
    assert (read.golden.prompt_ids, read.golden.response_ids) == (PROMPTS, RESPONSES)
    for found, expected in zip(read.golden.scores, written.golden.scores, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert made.sha256 == read.sha256
    assert len(read.sha256) == 64
    assert (tmp_path / "p" / "1" / "README.md").read_text(encoding="utf-8") == "# card é\n"


def test_an_artifact_is_never_overwritten(saved, artifact):
    before = (saved / "probe.json").read_bytes()
    with pytest.raises(FileExistsError, match="choose another version"):
        save_artifact(saved, artifact, "other")
    assert (saved / "probe.json").read_bytes() == before


def test_a_kill_while_saving_leaves_no_artifact(tmp_path, artifact, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        save_artifact(tmp_path / "tiny" / "1.0.0", artifact, "x")
    assert list((tmp_path / "tiny").iterdir()) == []


def test_a_card_with_nan_is_refused_before_anything_is_written(tmp_path, artifact):
    with pytest.raises(ValueError, match="JSON"):
        save_artifact(tmp_path / "tiny" / "1.0.0", replace(artifact, card={"auroc": float("nan")}), "x")
    assert list((tmp_path / "tiny").iterdir()) == []
