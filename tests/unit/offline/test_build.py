"""From features to an artifact on a tiny model: what is written is what was fitted, and a rerun redoes nothing."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch

from offline import build as build_module
from offline import fitting, metrics
from offline.build import build_artifact, find_finished
from offline.choose import VARIANTS, raw_units, score
from offline.combination import fit_combination, part_columns
from offline.evaluate import BOTH, FREE, HELD, PROBE, QUESTION, SERVED
from offline.fitting import fit_probe
from offline.metrics import auroc
from offline.run import RunConfig
from offline.table import Table
from probes.artifact import golden_error, load_artifact
from probes.fingerprint import check_model
from tests.reference.tiny_tokenizer import tiny_tokenizer
from tests.unit.offline.tables import extract_table, make_row, make_table
from tests.unit.offline.tiny_run import tiny_llama
from tests.unit.probes.artifacts import score_golden

torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def fewer_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.bootstrap, "__kwdefaults__", {"seed": 0, "resamples": 30})
        patch.setattr(metrics, "RESAMPLES", 30)
        yield


def make_run(out, **changes):
    """What the last stages use of a run, over the tiny model."""
    config = RunConfig(**{"model": "tiny", "questions": ("x",), "out": out, "max_per_mille": 500.0, **changes})
    return SimpleNamespace(config=config, out=out, model=lambda _dtype: tiny_llama(), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    out.mkdir(exist_ok=True)
    run, table = make_run(out), extract_table(out / "features")
    fitted = fit_probe(run, table, "upstream")
    folder = build_artifact(run, table, fitted, "upstream", name="tiny", version="1.0.0")
    return run, table, fitted, folder


@pytest.fixture
def without_baselines(monkeypatch):
    """For tests that build again and look at other things."""
    monkeypatch.setattr(build_module, "fit_dense", lambda _features, _labels, _train, place: np.zeros(len(place)))
    monkeypatch.setattr(build_module, "random_neuron_scores", lambda *args: [np.zeros(len(args[1]))])
    monkeypatch.setattr(metrics, "RESAMPLES", 3)
    monkeypatch.setattr(metrics.bootstrap, "__kwdefaults__", {"seed": 0, "resamples": 3})


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
        assert {SERVED, PROBE, FREE, HELD, BOTH, QUESTION, "dense L2 on all neurons", "mean entropy"} <= set(
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


def test_the_combination_is_fitted_on_logits_of_rows_that_the_probe_did_not_see(built):
    """On its own training rows the probe is too good, and would get too much weight beside the free signals."""
    _, table, fitted, folder = built
    found, train = load_artifact(folder).probe.risk_model, table.in_split("train")
    everything = np.ones(len(table.rows), dtype=bool)
    logits = score(table, fitted.candidate.variant.groups[0], everything, fitted.fit, fitted.view)
    unseen = logits.copy()
    unseen[train] = fitted.candidate.out_of_fold
    honest, flattered = (
        fit_combination(part_columns(table, cett, "lexical"), table.labels, train, list(found.weights))
        for cett in (unseen, logits)
    )
    assert found.weights == pytest.approx(honest.weights)
    assert found.weights["cett"] != pytest.approx(flattered.weights["cett"], rel=0.01)


def test_the_served_risk_is_the_one_that_was_judged(built):
    """What the service computes from a response's parts gives the AUROC and the out-of-domain share on the card."""
    _, table, fitted, folder = built
    artifact, group = load_artifact(folder), fitted.candidate.variant.groups[0]
    probe = artifact.probe
    rows = np.flatnonzero(table.in_split("test"))
    cett = np.asarray(table.groups[group], dtype=np.float64)[table.place[rows]][:, probe.neurons.flat] @ probe.weights
    names = ("mean_logprob", "min_logprob", "mean_entropy", "max_entropy")
    parts = [
        {"cett": value + probe.intercept, "length": table.signals["n_tokens"][row]}
        | {name: table.signals[name][row] for name in names}
        for value, row in zip(cett, rows, strict=True)
    ]
    risks = np.array([probe.risk_model.risk(part) for part in parts])
    evidence, labels = artifact.card["evidence"]["test"], table.labels[rows]
    assert auroc(risks, labels) == pytest.approx(evidence["methods"][SERVED]["auroc"][0], abs=1e-4)
    assert ((risks - labels) ** 2).mean() == pytest.approx(evidence["risk"]["brier"][0], abs=1e-4)
    outside = [probe.domain.is_outside(part) for part in parts]
    assert np.mean(outside) == pytest.approx(evidence["out_of_domain"], abs=1e-4)


@pytest.mark.usefixtures("without_baselines")
def test_the_risk_sees_no_test_row(built, tmp_path):
    _, table, fitted, folder = built
    spoilt = tuple(
        replace(row, label="faithful" if row.label == "hallucinated" else "hallucinated")
        if row.split in ("test", "unfiltered-test")
        else row
        for row in table.rows
    )
    other = Table(spoilt, table.passages, table.place, table.groups, table.signals)
    again = build_artifact(make_run(tmp_path), other, fitted, "upstream", name="tiny", version="1.0.0")
    a, b = load_artifact(folder).probe, load_artifact(again).probe
    for name in ("risk_model", "threshold", "budgets", "domain"):
        assert getattr(a, name) == getattr(b, name)


def test_a_rerun_finds_the_finished_artifact(built):
    run, _, _, folder = built
    assert find_finished(run.config, "upstream", "tiny", "1.0.0") == folder
    assert find_finished(run.config, "upstream", "tiny", "1.0.1") is None
    assert find_finished(run.config, "upstream", "other", "1.0.0") is None


def test_a_run_that_was_moved_is_still_finished(built, tmp_path):
    run, *_ = built
    moved = tmp_path / "elsewhere"
    shutil.copytree(run.out, moved)
    assert find_finished(replace(run.config, out=moved), "upstream", "tiny", "1.0.0") == moved / "artifact/tiny/1.0.0"


@pytest.mark.usefixtures("without_baselines")
def test_questions_that_say_nothing_do_not_end_the_refresh(built, tmp_path):
    """The question-only control may select no neuron at all; that is its best outcome, and no reason to stop."""
    _, table, _, _ = built
    silent = {**table.groups, "prompt": np.zeros_like(table.groups["prompt"])}
    run, same = make_run(tmp_path), replace(table, groups=silent)
    fitted = fit_probe(run, same, "upstream")
    assert fitted.asked.n_selected == 0
    folder = build_artifact(run, same, fitted, "upstream", name="tiny", version="1.0.0")
    assert load_artifact(folder).card["evidence"]["test"]["methods"][QUESTION]["auroc"] == [0.5, 0.5, 0.5]


def test_an_artifact_of_other_settings_is_not_taken_for_this_one(built):
    run, *_ = built
    with pytest.raises(FileExistsError, match="choose another --version, or delete it"):
        find_finished(run.config, "other upstream", "tiny", "1.0.0")
    with pytest.raises(FileExistsError, match="choose another --version"):
        find_finished(replace(run.config, max_per_mille=0.5), "upstream", "tiny", "1.0.0")


def test_an_artifact_of_an_older_format_is_not_taken_for_finished(built, monkeypatch):
    run, *_ = built
    monkeypatch.setattr(build_module, "SCHEMA_VERSION", 99)
    with pytest.raises(FileExistsError, match="choose another --version"):
        find_finished(run.config, "upstream", "tiny", "1.0.0")


@pytest.mark.usefixtures("without_baselines")
def test_a_kill_before_the_manifest_does_not_make_a_finished_artifact(built, tmp_path, monkeypatch):
    _, table, fitted, _ = built

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build_module, "write_json", killed)
    run = make_run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        build_artifact(run, table, fitted, "upstream", name="tiny", version="1.0.0")
    with pytest.raises(FileExistsError, match="delete it"):
        find_finished(run.config, "upstream", "tiny", "1.0.0")


def test_a_refit_after_a_kill_takes_the_finished_paths(built, monkeypatch):
    run, table, fitted, _ = built
    monkeypatch.setattr("offline.choose._fit_without", None)  # nothing is left to fit in cross-validation
    again = fit_probe(run, table, "upstream")
    assert again.candidate.as_row() == fitted.candidate.as_row()
    np.testing.assert_array_equal(again.fit.columns, fitted.fit.columns)


@pytest.mark.usefixtures("without_baselines")
def test_without_the_lexical_locator_the_probe_is_calibrated_on_what_it_will_pool(built, tmp_path):
    _, table, _, _ = built
    run = make_run(tmp_path, spans="alias")
    fitted = fit_probe(run, table, "upstream")
    assert fitted.candidate.variant.position == "own"
    assert fitted.served_group("response") == "response"
    assert fitted.served_group("lexical") == "answer"
    folder = build_artifact(run, table, fitted, "upstream", name="tiny", version="1.0.0")
    assert load_artifact(folder).probe.locator == "response"


def test_splits_with_too_few_rows_are_named_before_the_long_fit(tmp_path, monkeypatch):
    table = make_table(200)
    rows = tuple(
        make_row(row.question_id, 1 if row.split == "test" else label, row.split)
        for row, label in zip(table.rows, table.labels, strict=True)
    )
    monkeypatch.setattr(fitting, "cross_validate", None)
    with pytest.raises(ValueError, match=r"split test has too few rows \(0 faithful, .*--limit"):
        fit_probe(make_run(tmp_path), Table(rows, (), table.place, table.groups, table.signals), "upstream")


def test_the_manifest_is_bound_to_the_written_files(built):
    run, _, _, folder = built
    manifest = json.loads((run.out / "artifact.manifest.json").read_text())
    assert manifest["sha256"] == load_artifact(folder).sha256
