"""The gate judges both probes on rows that neither was chosen by, as the evaluation did, or says why it cannot."""

from dataclasses import replace

import numpy as np
import pytest

from offline import metrics
from offline.evaluation.evaluate import SERVED
from offline.evaluation.gate import NoComparisonError, compare, gate_logits, read_gate
from offline.evaluation.scores import load_scores
from offline.publish import publish
from offline.stages import StageMismatchError
from probes.artifact import load_artifact
from probes.calibration import Calibration
from probes.neurons import NeuronSet
from tests.unit.offline.publishing import changed, worse, write


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 50)


def test_the_gate_sees_what_the_evaluation_saw(made):
    folder, out = made
    artifact, gate = load_artifact(folder), read_gate(out)
    judged = load_scores(out, artifact.sha256)
    wanted = dict(zip(zip(judged.question_ids, judged.splits, strict=True), judged.of(SERVED), strict=True))
    found = gate_logits(artifact.probe, gate)
    assert len(found) == len(wanted)
    for row, logit in zip(gate.table.rows, found, strict=True):
        assert logit == pytest.approx(wanted[row.question_id, row.split], abs=1e-4)
    assert {row.split for row in gate.table.rows} == {"test", "unfiltered-test"}


def test_hazard_a_gain_in_ranking_hides_a_loss_of_calibration(made):
    folder, out = made
    new, gate = load_artifact(folder), read_gate(out)
    (flat,), weights = new.probe.neurons.flat, new.probe.weights
    both = NeuronSet.from_flat(new.probe.neurons.widths, np.array([flat, flat + 1]))
    noisy = {"neurons": both, "weights": np.repeat(weights, 2), "norms": np.repeat(new.probe.norms, 2)}
    old = changed(new, **noisy)  # another neuron's CETT is noise: it ranks worse
    assert compare(new, old, gate).is_better
    risk_model = replace(new.probe.risk_model, calibration=Calibration("platt", slope=0.01, offset=4.0))
    always = changed(new, "1.0.0", risk_model=risk_model)  # ranks as before, and calls everything 98%
    verdict = compare(always, old, gate)
    assert verdict.evidence["auroc_gained"][0] > 0
    assert verdict.evidence["calibration_error"][0] > verdict.evidence["calibration_error"][1] + 0.01
    assert not verdict.is_better


def test_hazard_noise_is_taken_for_a_gain(made, monkeypatch):
    """An estimate above 0 is not enough where the interval reaches far below."""
    folder, out = made
    new, gate = load_artifact(folder), read_gate(out)
    interval = metrics.Interval(0.005, -0.02, 0.03)
    monkeypatch.setattr("offline.evaluation.gate.bootstrap_difference", lambda *_: interval)
    assert not compare(new, worse(new), gate).is_better
    monkeypatch.setattr("offline.evaluation.gate.bootstrap_difference", lambda *_: replace(interval, low=-0.009))
    assert compare(new, worse(new), gate).is_better


class TestNoComparison:
    """Rows that do not tell are refused in words; nothing is published by default."""

    def test_another_layer_of_the_stream(self, made, tmp_path):
        folder, out = made
        new, gate = load_artifact(folder), read_gate(out)
        head = replace(residual_head(new, gate), layer=77)
        old = changed(new, residual=head, risk_model=replace(new.probe.risk_model, weights={"residual": 1.0}))
        with pytest.raises(NoComparisonError, match=r"tiny@0\.9\.0 reads the residual stream after layer 77, .* kept"):
            compare(new, old, gate)

    def test_a_layer_that_was_kept_is_read(self, made):
        folder, out = made
        new, gate = load_artifact(folder), read_gate(out)
        head = residual_head(new, gate)
        old = changed(new, residual=head, risk_model=replace(new.probe.risk_model, weights={"residual": 1.0}))
        streams = gate.residuals.groups["answer" if new.probe.position == "own" else "answer_ahead"]
        wanted = np.asarray(streams[gate.table.place, 1], np.float64) @ head.weights + head.intercept
        found = gate_logits(old.probe, gate) - old.probe.risk_model.intercept
        np.testing.assert_allclose(found, wanted, atol=1e-6)

    def test_rows_whose_answers_were_marked_in_another_way(self, made):
        folder, out = made
        new, gate = load_artifact(folder), replace(read_gate(out), has_claims=False)
        with pytest.raises(NoComparisonError, match="--spans lexical"):
            compare(new, worse(new), gate)
        whole = changed(new, locator="response", position="own")
        assert np.isfinite(gate_logits(whole.probe, gate)).all()
        with pytest.raises(NoComparisonError, match="predicting rows"):
            gate_logits(replace(whole.probe, position="predicting"), gate)

    def test_a_probe_of_another_model(self, made, tmp_path):
        folder, out = made
        old = worse(load_artifact(folder))
        write(tmp_path, replace(old, model=replace(old.model, architecture="Other")))
        with pytest.raises(ValueError, match="architecture"):
            publish(folder, out, tmp_path)

    def test_features_of_other_rows(self, made, tmp_path):
        _, out = made
        for path in out.iterdir():
            if path.name != "labels.jsonl":
                (tmp_path / path.name).symlink_to(path)
        lines = (out / "labels.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "labels.jsonl").write_text("".join(lines[::-1]))
        with pytest.raises(StageMismatchError, match="features of other rows"):
            read_gate(tmp_path)
        (tmp_path / "spans.settings.json").unlink()
        (tmp_path / "labels.jsonl").write_text("".join(lines))
        with pytest.raises(NoComparisonError, match=r"spans\.settings\.json is gone"):
            read_gate(tmp_path)


def residual_head(artifact, gate):
    """Of the second layer that the run kept."""
    from probes.probe import ResidualHead

    size = gate.residuals.groups["answer"].shape[2]
    weights = np.linspace(-1, 1, size, dtype=np.float32)
    return ResidualHead(gate.residuals.layers[1], weights, intercept=0.3)
