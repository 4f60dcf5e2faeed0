"""The evidence must be about the rows it names, and about none of the training rows."""

import json
from dataclasses import replace

import numpy as np
import pytest

from offline import metrics
from offline.evaluation.evaluate import (
    BOTH,
    FREE,
    HELD,
    PROBE,
    QUESTION,
    RANDOM,
    RESIDUAL,
    SERVED,
    Contest,
    answer_overlap,
    evaluate,
)
from offline.features.table import Table
from offline.fitting.risk import ServedRisk
from offline.metrics import auroc
from probes.calibration import Calibration
from probes.domain import Domain, PartRange
from probes.parts import SIGNS
from probes.risk import Budget, RiskModel
from tests.unit.offline.tables import make_row, make_table

CALIBRATION = Calibration("platt", slope=2.0, offset=-0.5)


@pytest.fixture(scope="module", autouse=True)
def fewer_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.bootstrap, "__kwdefaults__", {"seed": 0, "resamples": 50})
        patch.setattr(metrics, "RESAMPLES", 50)
        yield


def make_risk(table, logits, draw):
    """A served risk of two parts, whose other parts add or take a little."""
    refits = {part: logits + 0.5 * draw.normal(size=len(logits)) for part in SIGNS}
    return ServedRisk(
        model=RiskModel({"cett": 1.0, "length": 0.1}, intercept=0.0, calibration=CALIBRATION),
        domain=Domain({"cett": PartRange(-1.0, 0.0, 1.0)}, cutoff=1.0),
        threshold=0.6,
        budgets=(Budget(0.05, threshold=0.9, low=0.8, high=1.0), Budget(0.2, threshold=0.7, low=0.5, high=0.8)),
        logits=logits,
        refits=refits,
        free=draw.normal(size=len(logits)),
        outside=draw.random(len(logits)) < 0.1,
        chosen={},
    )


@pytest.fixture(scope="module")
def judged():
    table = make_table(600)
    draw = np.random.default_rng(0)
    n = len(table.rows)
    scores = {
        SERVED: 1.1 * table.labels + draw.normal(size=n),
        PROBE: table.labels + draw.normal(size=n),
        FREE: 0.5 * table.labels + draw.normal(size=n),
        HELD: 0.6 * table.labels + draw.normal(size=n),
        BOTH: 1.2 * table.labels + draw.normal(size=n),
        QUESTION: draw.normal(size=n),
        RESIDUAL: 0.7 * table.labels + draw.normal(size=n),
    }
    contest = Contest(scores, [draw.normal(size=n) for _ in range(10)], make_risk(table, scores[SERVED], draw))
    return table, contest, evaluate(table, "test", contest)


def test_only_the_rows_of_the_split_are_judged(judged):
    table, contest, evidence = judged
    scores, rows = contest.scores, table.in_split("test")
    labels = table.labels[rows]
    assert evidence["rows"] == {"faithful": int((labels == 0).sum()), "hallucinated": int((labels == 1).sum())}
    for name, values in scores.items():
        assert evidence["methods"][name]["auroc"][0] == pytest.approx(auroc(values[rows], labels), abs=1e-4)
    spoilt = {name: np.where(rows, values, 1e9) for name, values in scores.items()}
    risk = replace(
        contest.risk,
        logits=spoilt[SERVED],
        refits={part: np.where(rows, values, 1e9) for part, values in contest.risk.refits.items()},
        outside=contest.risk.outside | ~rows,
    )
    assert evaluate(table, "test", replace(contest, scores=spoilt, risk=risk)) == evidence


def test_risk_is_judged_at_the_shipped_threshold(judged):
    table, contest, evidence = judged
    rows = table.in_split("test")
    risks, labels = CALIBRATION.risks(contest.scores[SERVED][rows]), table.labels[rows]
    assert evidence["risk"]["accuracy_at_threshold"][0] == pytest.approx(((risks >= 0.6) == labels).mean(), abs=1e-4)
    assert evidence["risk"]["flagged"] == pytest.approx((risks >= 0.6).mean(), abs=1e-4)
    assert evidence["risk"]["brier"][0] == pytest.approx(((risks - labels) ** 2).mean(), abs=1e-4)
    assert evidence["out_of_domain"] == pytest.approx(contest.risk.outside[rows].mean(), abs=1e-4)


def test_what_a_budget_spends_is_counted_within_each_class(judged):
    table, contest, evidence = judged
    rows = table.in_split("test")
    risks, labels = CALIBRATION.risks(contest.scores[SERVED][rows]), table.labels[rows]
    assert [spent["fpr"] for spent in evidence["budgets"]] == [0.05, 0.2]
    for spent in evidence["budgets"]:
        for name, label in (("faithful", 0), ("hallucinated", 1)):
            share = (risks[labels == label] >= spent["threshold"]).mean()
            value, low, high = spent[name]
            assert value == pytest.approx(share, abs=1e-4)
            assert low <= value <= high


def test_a_part_gains_what_the_refit_without_it_loses(judged):
    table, contest, evidence = judged
    rows = table.in_split("test")
    labels = table.labels[rows]
    served = auroc(contest.scores[SERVED][rows], labels)
    for part, found in evidence["parts"].items():
        refit = auroc(contest.risk.refits[part][rows], labels)
        assert found["served"] is (part in ("cett", "length"))
        assert found["gain"][0] == pytest.approx(served - refit if found["served"] else refit - served, abs=2e-4)


def test_gains_are_differences_of_what_stands_in_the_same_table(judged):
    table, contest, evidence = judged
    value = {name: found["auroc"][0] for name, found in evidence["methods"].items()}
    gains = evidence["differences"]
    assert gains[f"{PROBE} over {FREE}"][0] == pytest.approx(value[PROBE] - value[FREE], abs=2e-4)
    assert gains[f"{BOTH} over {FREE}"][0] == pytest.approx(value[BOTH] - value[FREE], abs=2e-4)
    assert gains[f"{PROBE} over {QUESTION}"][0] == pytest.approx(value[PROBE] - value[QUESTION], abs=2e-4)
    for other in (FREE, HELD, QUESTION, PROBE, RESIDUAL):
        assert gains[f"{SERVED} over {other}"][0] == pytest.approx(value[SERVED] - value[other], abs=2e-4)
    rows = table.in_split("test")
    drawn = [auroc(values[rows], table.labels[rows]) for values in contest.random]
    assert evidence[RANDOM]["mean"] == pytest.approx(np.mean(drawn), abs=1e-4)
    assert (evidence[RANDOM]["low"], evidence[RANDOM]["high"]) == pytest.approx((min(drawn), max(drawn)), abs=1e-4)
    assert evidence[RANDOM]["best"]["auroc"][0] == evidence[RANDOM]["high"]
    assert gains[f"{PROBE} over best {RANDOM}"][0] == pytest.approx(value[PROBE] - max(drawn), abs=2e-4)
    expected = value[PROBE] - np.mean(drawn)
    assert gains[f"{PROBE} over mean {RANDOM}"][0] == pytest.approx(expected, abs=2e-4)


def test_sources_are_judged_apart_where_both_classes_have_rows(judged):
    table, contest, evidence = judged
    assert set(evidence["auroc_by_source"]) == {"a", "b"}
    rows = table.in_split("test") & np.array([row.source == "a" for row in table.rows])
    found = evidence["auroc_by_source"]["a"]
    for name in (SERVED, PROBE):
        expected = auroc(contest.scores[name][rows], table.labels[rows])
        assert found["auroc"][name][0] == pytest.approx(expected, abs=1e-4)
    assert found["faithful"] + found["hallucinated"] == rows.sum()


def test_a_source_with_few_rows_of_a_class_has_no_figure(judged):
    table, contest, _ = judged
    rows = tuple(
        make_row(row.question_id, label, row.split, source="rare" if i < 5 else "a")
        for i, (row, label) in enumerate(zip(table.rows, table.labels, strict=True))
    )
    other = Table(rows, table.passages, table.place, table.groups, table.signals)
    assert set(evaluate(other, "test", contest)["auroc_by_source"]) == {"a"}


def test_the_evidence_is_strict_json(judged):
    json.dumps(judged[2], allow_nan=False)


def test_a_set_of_one_class_is_an_error_and_not_nan(judged):
    table, contest, _ = judged
    rows = tuple(make_row(row.question_id, 1, row.split) for row in table.rows)
    other = Table(rows, table.passages, table.place, table.groups, table.signals)
    with pytest.raises(ValueError, match="one of the two classes is empty"):
        evaluate(other, "test", contest)


def test_shared_answers_are_counted_and_not_assumed():
    table = make_table(40)
    rows = tuple(
        make_row(f"s/{i}", i % 2, split, answers_key="paris") for i, split in enumerate(["train", "test"] * 20)
    )
    other = Table(rows, table.passages, table.place, table.groups, table.signals)
    assert answer_overlap(table, "train", "test") == 0
    assert answer_overlap(other, "train", "test") == 1
