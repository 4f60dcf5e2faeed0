"""Recalibration: fitted on rows of this probe, better on those that are held out, and nothing else moves."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from offline.metrics import ece
from offline.recalibrate import HELD_OUT, main, read_rows, refit
from probes.artifact import load_artifact, save_artifact
from service.engines.fake_probe import fake_artifact


@pytest.fixture
def folder(tmp_path):
    card = {"auroc": [0.8, 0.7, 0.9], "ece": [0.02, 0.01, 0.03]}
    save_artifact(tmp_path / "old" / "fake" / "0", replace(fake_artifact(), card=card), "# fake 0\n\nthe old card\n")
    return tmp_path / "old" / "fake" / "0"


def make_rows(folder, n=1500, *, shift=-1.5, seed=0, **changes):
    """Responses whose true log-odds are those of the probe, shifted: it is overconfident in hallucinations."""
    artifact, random = load_artifact(folder), np.random.default_rng(seed)
    model, rows = artifact.probe.risk_model, []
    for number in range(n):
        cett, residual, logprob = random.normal(0, 1, 3)
        parts = {"cett": cett, "residual": residual, "min_logprob": -abs(logprob), "length": 3.0}
        risk = model.risk(parts)
        odds = np.log(risk / (1 - risk)) + shift
        is_wrong = random.random() < 1 / (1 + np.exp(-odds))
        row = {
            "id": f"gen-{seed}-{number}",
            "label": "hallucinated" if is_wrong else "faithful",
            "parts": parts,
            "risk": risk,
            "is_calibrated": True,
            "probe_sha256": artifact.sha256,
        }
        rows.append({**row, **changes})
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_new_calibration_is_right_on_rows_that_it_did_not_see(folder, tmp_path):
    old = load_artifact(folder)
    rows = make_rows(folder)
    found = refit(old, read_rows(write(tmp_path / "rows.jsonl", rows), old), "1")
    fresh = make_rows(folder, 4000, seed=9)
    labels = np.array([row["label"] == "hallucinated" for row in fresh], np.int64)
    before, after = (
        ece(np.array([artifact.probe.risk_model.risk(row["parts"]) for row in fresh]), labels)
        for artifact in (old, found.artifact)
    )
    assert before > 0.15
    assert after < 0.04
    assert found.ece[0].value > 0.15 > 0.08 > found.ece[1].value
    assert found.ece[0].low < found.ece[0].value < found.ece[0].high


def test_held_out_rows_are_not_fitted_on(folder, tmp_path):
    """Labels of held-out rows turned round change what is judged and nothing that is fitted."""
    old, rows = load_artifact(folder), make_rows(folder)
    turned = [
        {**row, "label": "faithful" if row["label"] == "hallucinated" else "hallucinated"}
        if int(hashlib.sha256(row["id"].encode()).hexdigest()[:8], 16) < HELD_OUT * 2**32
        else row
        for row in rows
    ]
    assert 350 < sum(a != b for a, b in zip(rows, turned, strict=True)) < 550
    plain, other = (refit(old, read_rows(write(tmp_path / "rows.jsonl", some), old), "1") for some in (rows, turned))
    assert plain.artifact.probe.risk_model == other.artifact.probe.risk_model
    assert plain.artifact.probe.threshold == other.artifact.probe.threshold
    assert plain.brier[1].value < other.brier[1].value


def test_the_new_version_differs_in_its_calibration_alone(folder, tmp_path, capsys):
    rows = write(tmp_path / "rows.jsonl", make_rows(folder))
    assert main([str(folder), str(rows), "--version", "1", "--out", str(tmp_path / "new")]) == 0
    old, new = load_artifact(folder), load_artifact(tmp_path / "new" / "fake" / "1")
    assert new.probe.version == "1"
    for name in ("weights", "norms"):
        np.testing.assert_array_equal(getattr(new.probe, name), getattr(old.probe, name))
    for name in ("name", "intercept", "position", "locator", "domain"):
        assert getattr(new.probe, name) == getattr(old.probe, name)
    assert new.probe.risk_model.weights == old.probe.risk_model.weights
    assert new.probe.risk_model.calibration != old.probe.risk_model.calibration
    assert new.model == old.model
    assert new.card["auroc"] == old.card["auroc"]
    assert new.card["recalibrated"]["from"]["sha256"] == old.sha256
    assert new.card["ece"] == new.card["recalibrated"]["ece"][1]
    assert new.reference.rows == "feedback"
    assert sum(new.reference.counts) == 1500
    for found, wanted in zip(new.golden.scores, old.golden.scores, strict=True):
        np.testing.assert_array_equal(found, wanted)
    readme = (tmp_path / "new" / "fake" / "1" / "README.md").read_text()
    assert "the old card" in readme
    assert "calibration error" in readme


def test_a_calibration_that_is_right_already_is_not_replaced_by_a_worse_one(folder, tmp_path, caplog):
    """Fitting on few rows of a calibrated probe adds noise only."""
    worse = 0
    for seed in range(3):
        rows = write(tmp_path / f"{seed}.jsonl", make_rows(folder, 200, shift=0.0, seed=seed))
        code = main([str(folder), str(rows), "--version", str(seed), "--out", str(tmp_path / "new")])
        assert (code == 0) == (tmp_path / "new" / "fake" / str(seed)).exists()
        worse += code == 1
    assert worse
    assert "not written" in caplog.text


def test_rows_of_other_probes_and_conditions_are_left_out_and_told(folder, tmp_path):
    rows = [
        *make_rows(folder, 50),
        *make_rows(folder, 3, probe_sha256="1" * 64),
        *make_rows(folder, 2, is_calibrated=False),
        *make_rows(folder, 1, parts={"length": 3.0}),
    ]
    found = read_rows(write(tmp_path / "rows.jsonl", rows), load_artifact(folder))
    assert len(found.labels) == 50
    assert found.left_out == {"another probe": 3, "another alpha or locator": 2, "not scored": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n", "line 1 is no row"),
        ("[1]\n", "line 1 is no row"),
        ('{"label": "maybe"}\n', "line 1 is no row"),
        ("", "20 rows of each label"),
    ],
)
def test_rows_that_give_no_calibration_are_refused_in_words(folder, tmp_path, caplog, text, message):
    (tmp_path / "rows.jsonl").write_text(text)
    assert main([str(folder), str(tmp_path / "rows.jsonl"), "--version", "1", "--out", str(tmp_path / "new")]) == 2
    assert message in caplog.text
    assert not (tmp_path / "new").exists()
