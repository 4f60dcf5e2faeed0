"""From features to an artifact on a tiny model: what is written is what was fitted."""

import joblib
import numpy as np
import pytest
import torch

from offline.evaluation.evaluate import BOTH, FREE, HELD, PROBE, QUESTION, RESIDUAL, SERVED
from offline.features.residuals import Residuals
from offline.features.table import Table
from offline.fitting import probe as fitting
from offline.fitting.choose import VARIANTS, raw_units, score
from offline.fitting.probe import fit_probe
from probes.artifact import golden_error, load_artifact
from probes.fingerprint import check_model
from tests.reference.tiny_tokenizer import tiny_tokenizer
from tests.unit.offline.tables import make_row, make_table
from tests.unit.offline.tiny_run import make_run, tiny_llama
from tests.unit.probes.artifacts import score_golden

torch.set_num_threads(1)


def test_the_artifact_is_accepted_by_its_model(built):
    artifact = load_artifact(built[3])
    check_model(artifact.model, artifact.probe, tiny_llama(), tiny_tokenizer())
    assert artifact.model.name == "tiny"


def test_the_neuron_that_decides_the_labels_is_an_h_neuron(built):
    probe = load_artifact(built[3]).probe
    assert 60 in probe.neurons.flat[probe.h_neurons]


def test_the_golden_trace_is_what_plain_passes_give(built):
    artifact = load_artifact(built[3])
    golden = artifact.golden
    assert len(golden.scores) == 4
    scores = score_golden(tiny_llama(), artifact.probe, (golden.prompt_ids, golden.response_ids))
    assert golden_error(artifact, scores) < 1e-4


def test_weights_sit_at_their_own_neurons(built):
    _, table, fitted, folder = built
    probe = load_artifact(folder).probe
    weights, intercept = raw_units(fitted.fit, fitted.view)
    np.testing.assert_allclose(probe.weights, weights, rtol=1e-6)
    assert probe.intercept == intercept
    features = np.asarray(table.groups[fitted.candidate.variant.groups[0]], dtype=np.float64)[table.place]
    logits = features[:, probe.neurons.flat] @ probe.weights + probe.intercept
    everything = np.ones(len(table.rows), dtype=bool)
    group = fitted.candidate.variant.groups[0]
    np.testing.assert_allclose(logits, score(table, group, everything, fitted.fit, fitted.view), atol=1e-5)


def test_norms_are_those_of_the_columns(built):
    probe = load_artifact(built[3]).probe
    for layer, j, norm in zip(probe.neurons.layer, probe.neurons.index, probe.norms, strict=True):
        column = tiny_llama().model.layers[layer].mlp.down_proj.weight[:, j]
        assert norm == pytest.approx(float(column.norm()), rel=1e-6)


def test_the_scikit_learn_estimator_gives_the_same_logits(built):
    _, table, fitted, folder = built
    probe, estimator = load_artifact(folder).probe, joblib.load(folder / "estimator.joblib")
    features = np.asarray(table.groups[fitted.candidate.variant.groups[0]], dtype=np.float64)[table.place[:20]]
    expected = features[:, probe.neurons.flat] @ probe.weights.astype(np.float64) + probe.intercept
    np.testing.assert_allclose(estimator.decision_function(features), expected, atol=1e-6)
    assert ((estimator.predict_proba(features)[:, 1] > 0.5) == (expected > 0)).all()


def test_the_card_tells_what_was_done_and_reached(built):
    _, table, _fitted, folder = built
    card = load_artifact(folder).card
    assert card["training"]["shared_answers_train_test"] == 0
    assert card["training"]["rows"]["train"]["faithful"] == (table.labels[table.in_split("train")] == 0).sum()
    for split in ("test", "unfiltered-test"):
        evidence = card["evidence"][split]
        assert {SERVED, PROBE, FREE, HELD, BOTH, QUESTION, RESIDUAL, "dense L2 on all neurons", "mean entropy"} <= set(
            evidence["methods"]
        )
        assert evidence["methods"][PROBE]["auroc"][0] > 0.8
        assert evidence["rows"]["faithful"] > 0
    assert card["auroc"] == card["evidence"]["test"]["methods"][SERVED]["auroc"]
    assert list(card["risk"]["parts"]) == list(load_artifact(folder).probe.risk_model.weights)
    assert len(card["selection"]) == sum(len(variant.c_values) for variant in VARIANTS)
    text = (folder / "README.md").read_text(encoding="utf-8")
    for words in ("# tiny 1.0.0", "question only", "random neurons, 10 sets", "H-neurons by layer", "\\* shipped"):
        assert words in text
    assert sum("vs-1 *" in line for line in text.splitlines()) == 1


def test_splits_with_too_few_rows_are_named_before_the_long_fit(tmp_path, monkeypatch):
    table = make_table(200)
    rows = tuple(
        make_row(row.question_id, 1 if row.split == "test" else label, row.split)
        for row, label in zip(table.rows, table.labels, strict=True)
    )
    monkeypatch.setattr(fitting, "cross_validate", None)
    few = Table(rows, (), table.place, table.groups, table.signals)
    with pytest.raises(ValueError, match=r"split test has too few rows \(0 faithful, .*--limit"):
        fit_probe(make_run(tmp_path), few, Residuals((), {}), "upstream")
