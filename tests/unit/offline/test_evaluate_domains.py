"""What the card says of each domain is about its own rows, and a domain never moves the probe that it judges."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from offline import metrics
from offline.build import build_artifact
from offline.evaluation.domains import evaluate_domains
from offline.evaluation.evaluate import FREE, PROBE, QUESTION, RANDOM, SERVED, Contest
from offline.features.residuals import extract_residuals
from offline.features.table import stack_tables
from offline.fitting.probe import fit_probe
from offline.records import DOMAIN
from probes.artifact import load_artifact
from tests.unit.offline.tables import extract_table, make_row, make_table
from tests.unit.offline.test_evaluate import make_risk
from tests.unit.offline.tiny_run import make_run

N_NEW = 200


@pytest.fixture(scope="module", autouse=True)
def fewer_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.bootstrap, "__kwdefaults__", {"seed": 0, "resamples": 30})
        patch.setattr(metrics, "RESAMPLES", 30)
        yield


def make_domains(first_labels):
    """A table whose last rows are of the domains `even` and `odd`, and their scores."""
    table = make_table(600)
    rows = list(table.rows)
    for number, label in enumerate(first_labels):
        at = len(rows) - N_NEW + number
        rows[at] = make_row(rows[at].question_id, label, DOMAIN, source=("even", "odd")[number % 2])
    table, draw = replace(table, rows=tuple(rows)), np.random.default_rng(1)
    n = len(rows)
    scores = {name: table.labels + draw.normal(size=n) for name in (SERVED, PROBE, FREE, QUESTION, "response length")}
    return table, Contest(scores, [draw.normal(size=n) for _ in range(10)], make_risk(table, scores[SERVED], draw))


@pytest.fixture(scope="module")
def judged():
    table, contest = make_domains(np.random.default_rng(2).integers(0, 2, N_NEW))
    return table, contest, evaluate_domains(table, contest, {"odd": {"refused": 3}, "empty": {"refused": 5}})


def test_sources_of_the_probe_come_first_then_domains_even_those_without_rows(judged):
    names = [(found["domain"], found["is_trained"], found["left_out"]) for found in judged[2]]
    assert names == [
        ("a", True, {}),
        ("b", True, {}),
        ("empty", False, {"refused": 5}),
        ("even", False, {}),
        ("odd", False, {"refused": 3}),
    ]
    empty = judged[2][2]
    assert empty["rows"] == {"faithful": 0, "hallucinated": 0}
    assert empty["ece"] is empty["auroc"] is empty["flagged"]["faithful"] is None


def test_every_number_is_about_the_rows_of_the_domain(judged):
    table, contest, found = judged
    at = np.array([row.split == DOMAIN and row.source == "odd" for row in table.rows])
    labels, odd = table.labels[at], found[-1]
    assert odd["rows"] == {"faithful": int((labels == 0).sum()), "hallucinated": int(labels.sum())}
    for name, values in odd["auroc"].items():
        assert values[0] == pytest.approx(roc_auc_score(labels, contest.scores[name][at]), abs=1e-4)
        assert values[1] < values[0] < values[2]
    assert odd["gain"][0] == pytest.approx(odd["auroc"][SERVED][0] - odd["auroc"][FREE][0], abs=2e-4)
    risks = contest.risk.model.calibration.risks(contest.scores[SERVED][at])
    flags = risks >= contest.risk.threshold
    exact = binomtest(int(flags[labels == 1].sum()), int(labels.sum())).proportion_ci(method="exact")
    assert odd["flagged"]["hallucinated"] == pytest.approx([flags[labels == 1].mean(), exact.low, exact.high], abs=1e-4)
    assert odd["balanced_accuracy"][SERVED][0] == pytest.approx(balanced_accuracy_score(labels, flags), abs=1e-4)
    assert odd["out_of_domain"] == pytest.approx(contest.risk.outside[at].mean(), abs=1e-4)


def test_probe_and_random_neurons_are_cut_where_they_do_best_on_calibration_rows(judged):
    table, contest, found = judged
    at = np.array([row.split == DOMAIN and row.source == "odd" for row in table.rows])
    calibrating = table.in_split("unfiltered-calibration")

    def cut_and_judge(scores):
        tried = np.unique(scores[calibrating])
        tried = (tried[1:] + tried[:-1]) / 2
        known = table.labels[calibrating]
        best = max(tried, key=lambda cut: balanced_accuracy_score(known, scores[calibrating] >= cut))
        return balanced_accuracy_score(table.labels[at], scores[at] >= best)

    accuracy = found[-1]["balanced_accuracy"]
    assert accuracy[PROBE][0] == pytest.approx(cut_and_judge(contest.scores[PROBE]), abs=0.015)
    random = [cut_and_judge(scores) for scores in contest.random]
    assert accuracy[RANDOM] == pytest.approx([np.mean(random), min(random), max(random)], abs=0.015)


@pytest.mark.parametrize("n_faithful", [0, 9])
def test_a_domain_with_one_class_has_no_auroc_and_says_why(n_faithful):
    table, contest = make_domains([1] * N_NEW)
    rows = list(table.rows)
    odd = [i for i, row in enumerate(rows) if row.split == DOMAIN and row.source == "odd"]
    for i in odd[:n_faithful]:
        rows[i] = replace(rows[i], label="faithful")
    found = evaluate_domains(replace(table, rows=tuple(rows)), contest, {})[-1]
    assert found["auroc"] is found["gain"] is found["balanced_accuracy"] is None
    assert found["reason"].startswith(f"{n_faithful} faithful and {100 - n_faithful} hallucinated: AUROC needs 10")
    assert (found["flagged"]["faithful"] is None) == (n_faithful == 0)
    risks = contest.risk.model.calibration.risks(contest.scores[SERVED][odd])
    assert found["flagged"]["hallucinated"][0] == pytest.approx(
        (risks[n_faithful:] >= contest.risk.threshold).mean(), abs=1e-4
    )
    if n_faithful == 0:
        assert found["ece"][0] == pytest.approx(1 - risks.mean(), abs=1e-4)
    assert found["ece"][1] < found["ece"][0] < found["ece"][2]


def test_ten_rows_of_each_class_are_enough_for_an_auroc():
    table, contest = make_domains([0] * 20 + [1] * (N_NEW - 20))
    assert evaluate_domains(table, contest, {})[-1]["auroc"] is not None


@pytest.mark.usefixtures("without_baselines")
def test_nothing_of_the_probe_sees_a_domain_row(built, tmp_path):
    """The same probe with and without rows of another domain, whose labels contradict it."""
    _, table, fitted, folder = built
    other = extract_table(tmp_path / "domain-features", n=40, seed=7)
    rows = [replace(row, question_id=f"d/{i}", split=DOMAIN, source="d") for i, row in enumerate(other.rows)]
    opposite = {"faithful": "hallucinated", "hallucinated": "faithful"}
    other = replace(other, rows=tuple(replace(row, label=opposite[row.label]) for row in rows))
    both, run = stack_tables(table, other), make_run(tmp_path)
    again = fit_probe(run, both, extract_residuals(run, both, "upstream"), "upstream")
    np.testing.assert_array_equal(again.fit.weights, fitted.fit.weights)
    np.testing.assert_array_equal(again.candidate.out_of_fold, fitted.candidate.out_of_fold)
    a = load_artifact(folder)
    b = load_artifact(build_artifact(run, both, again, "upstream", name="tiny", version="1.0.0"))
    for name in ("risk_model", "threshold", "budgets", "domain", "intercept"):
        assert getattr(a.probe, name) == getattr(b.probe, name)
    assert b.card["training"] == a.card["training"]
    for split, evidence in a.card["evidence"].items():
        assert b.card["evidence"][split]["rows"] == evidence["rows"]
    found = b.card["domains"][-1]
    assert (found["domain"], sum(found["rows"].values())) == ("d", len(rows))
    assert found["auroc"][PROBE][0] < 0.5
