"""The table must set each score beside the other on the same rows, and say which way a difference goes."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from offline.evaluation.evaluate import PROBE, SERVED
from offline.evaluation.scores import EvaluatedRows
from probes.neurons import NeuronSet

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def test_the_smallest_of_equally_good_c_is_chosen_within_the_mode(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = import_module("official_classifier")
    held_out = {script.Settings("1-vs-1", c): accuracy for c, accuracy in ((10.0, 0.7), (1.0, 0.7), (0.1, 0.6))}
    held_out[script.Settings("3-vs-1", 3.0)] = 0.9
    assert script.choose_c(held_out, "1-vs-1") == script.Settings("1-vs-1", 1.0)


def make_evaluated(keys, labels, scores, risks):
    n = len(keys)
    return EvaluatedRows(
        artifact_sha256="",
        question_ids=np.array(keys),
        splits=np.array(["unfiltered-test", *["test"] * (n - 1)]),
        sources=np.array(["s"] * n),
        labels=np.array(labels),
        answer_tokens=np.ones(n, dtype=np.int64),
        response_tokens=np.ones(n, dtype=np.int64),
        methods=(SERVED, PROBE),
        scores=np.array(scores),
        random=np.zeros((1, n)),
        risks=np.array(risks),
        feature_std=np.ones(1),
    )


def test_our_scores_stand_at_their_own_rows_in_whatever_order_they_were_kept(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = import_module("official_classifier")
    table = SimpleNamespace(rows=[SimpleNamespace(question_id=key) for key in ("other", "a", "b", "c")])
    rows = script.Rows("test", np.array([1, 3]), ("a", "c"), np.array([0, 1]), {})
    # "a" is an unfiltered row too, with another score; "b" has no region.
    kept = (["a", "c", "b", "a"], [0, 1, 1, 0], [[9.0, 3.0, 7.0, 1.0], [9.0, -4.0, 7.0, 2.0]], [0.9, 0.8, 0.7, 0.1])
    probe = SimpleNamespace(
        neurons=NeuronSet.from_flat((8,), np.array([1, 2, 5])),
        h_neurons=np.array([0, 2]),
        risk_model=SimpleNamespace(weights={"cett": 1.0}),
        threshold=0.75,
    )
    alone, risk = script.judge_ours(table, [rows], probe, make_evaluated(*kept))
    assert alone.scores["test"].tolist() == [2.0, -4.0]
    assert alone.flags["test"].tolist() == [True, False]
    assert risk.scores["test"].tolist() == [1.0, 3.0]
    assert risk.flags["test"].tolist() == [False, True]
    assert (alone.n_selected, risk.n_h_neurons, risk.n_neurons) == (3, 2, 8)
    probe.risk_model.weights = {"residual": 1.0}  # no neuron is read
    assert script.judge_ours(table, [rows], probe, make_evaluated(*kept))[1].n_h_neurons == 0
    with pytest.raises(SystemExit, match="labels are not those of its evaluation"):
        script.judge_ours(table, [rows], probe, make_evaluated(kept[0], [0, 0, 1, 0], *kept[2:]))


def test_a_difference_is_ours_minus_theirs(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    table = import_module("_official_table")
    labels = np.repeat([0, 1], 50)
    good, bad = labels + np.random.default_rng(0).normal(0, 0.2, 100), np.random.default_rng(1).normal(size=100)
    common = {"labels": {"test": labels}, "n_selected": 4, "n_neurons": 4000}
    ours = table.Judged("ours: p", {"test": good}, {"test": good > 0.5}, n_h_neurons=2, **common)
    theirs = table.Judged("official", {"test": bad}, {"test": bad > 9}, n_h_neurons=3, settings="s", **common)
    rows = type("Rows", (), {"split": "test", "counts": {"rows": 100}})
    report = table.to_json([ours, theirs], ["ours: p", "official"], [rows])
    value, low, high = report["differences"]["ours: p - official"]["test"]
    assert value == pytest.approx(roc_auc_score(labels, good) - roc_auc_score(labels, bad), abs=1e-4)
    assert 0 < low < value < high
    assert report["methods"]["official"]["test"]["accuracy"][0] == 0.5  # flags nobody
    assert report["methods"]["official"]["per_mille"] == 0.75
    table.print_tables(report)
    assert f"| official | +{value:.3f} [+{low:.3f}, +{high:.3f}] |" in capsys.readouterr().out
