"""The tables of the locator, beside sums by hand."""

from dataclasses import replace

import numpy as np
import pytest

from offline.locating.evaluate import count_without, evaluate_locators, evaluate_set, judge_scores, judge_tokens, pool
from probes.calibration import Calibration
from probes.risk import RiskModel
from probes.spans import AnswerSpan
from tests.unit.offline.test_locators import make_answer
from tests.unit.offline.test_token_rows import make_probe

RISK = RiskModel({"cett": 1.0, "min_logprob": -0.5}, 0.1, Calibration("platt"))
PROBE = replace(make_probe("own"), intercept=0.0, risk_model=RISK)


def make_located(spans, *, length=6, gold=None, verdict="right", numbers=None, key="k"):
    answer = make_answer(" ".join(["word"] * length), gold=gold, verdict=verdict, key=key)
    if numbers is None:
        numbers = np.zeros((length, 3), dtype=np.float32)
    return pool(answer, {"lexical": spans, "gold": [gold] if gold else []}, numbers, PROBE)


def test_tokens_are_counted_over_all_responses():
    rows = [
        make_located([AnswerSpan(0, 2), AnswerSpan(4, 5)], gold=AnswerSpan(1, 3)),  # one hit of three, of two
        make_located([AnswerSpan(2, 6)], gold=AnswerSpan(2, 6)),
        make_located([], gold=AnswerSpan(0, 1)),
    ]
    found = judge_tokens(rows, ["lexical", "gold"])
    assert found["lexical"]["precision"][0] == pytest.approx(5 / 7, abs=1e-4)
    assert found["lexical"]["recall"][0] == pytest.approx(5 / 7, abs=1e-4)
    assert found["lexical"]["f1"][0] == pytest.approx(5 / 7, abs=1e-4)
    assert found["lexical"]["mean_f1"] == pytest.approx((0.4 + 1 + 0) / 3)
    assert found["lexical"]["exact"] == pytest.approx(1 / 3)
    assert found["gold"]["f1"][0] == 1
    assert found["gold"]["f1_minus_lexical"][0] == pytest.approx(2 / 7, abs=1e-4)


def test_pooling_takes_each_token_of_the_spans_once():
    numbers = np.arange(18, dtype=np.float32).reshape(6, 3)
    row = make_located([AnswerSpan(1, 3), AnswerSpan(2, 4)], numbers=numbers)
    assert row.logit["lexical"] == pytest.approx(numbers[1:4, 0].mean())
    expected = 1 / (1 + np.exp(-(0.1 + numbers[1:4, 0].mean() - 0.5 * numbers[1:4, 1].min())))
    assert row.risk["lexical"] == pytest.approx(expected)
    assert "gold" not in row.risk


def test_the_riskiest_claim_is_chosen_by_its_own_risk():
    numbers = np.zeros((6, 3), dtype=np.float32)
    numbers[:, 0] = [0, 2, 1, 0, 1.8, 1.8]
    row = make_located([AnswerSpan(0, 1), AnswerSpan(1, 3), AnswerSpan(4, 6)], numbers=numbers)
    assert row.spans["lexical, riskiest claim"] == [AnswerSpan(4, 6)]
    assert row.risk["lexical, riskiest claim"] == pytest.approx(1 / (1 + np.exp(-1.9)))


def make_many(n=60):
    draw = np.random.default_rng(3)
    rows = []
    for at in range(n):
        wrong = at % 2
        numbers = draw.normal(size=(6, 3)).astype(np.float32)
        numbers[2, 0] += 4 * wrong  # token 2 knows; the lexical span misses it
        spans = [] if at % 10 == 9 else [AnswerSpan(4, 6)]
        verdict = "wrong" if wrong else "right"
        rows.append(make_located(spans, gold=AnswerSpan(2, 3), verdict=verdict, numbers=numbers, key=str(at)))
    return rows


def test_hazard_an_auroc_of_other_rows_is_set_against_gold():
    rows = make_many()
    found = judge_scores(rows, "lexical")
    assert (found["rows"], found["without"]) == (54, 6)
    own = [row for row in rows if row.spans["lexical"]]
    wrong, right = ([r for r in own if r.answer.verdict == v] for v in ("wrong", "right"))

    def wins(name):
        return np.mean([a.logit[name] > b.logit[name] for a in wrong for b in right])

    assert found["logit"]["auroc"][0] == pytest.approx(wins("lexical"), abs=1e-4)
    assert found["logit"]["minus gold"][0] == pytest.approx(wins("lexical") - wins("gold"), abs=1e-4)
    assert found["logit"]["minus gold"][3] == 54
    assert found["logit"]["minus gold"][2] < 0


def test_responses_without_claim_are_counted_by_verdict():
    rows = [
        make_located([], verdict="refusal"),
        make_located([AnswerSpan(0, 1)], verdict="refusal"),
        make_located([], gold=AnswerSpan(0, 1)),
        make_located([AnswerSpan(0, 1)], gold=AnswerSpan(0, 1)),
    ]
    assert count_without(rows, "lexical") == {
        "no_claim": 2,
        "of_them": {"refusal": 1, "right": 1},
        "of_them_with_gold": 1,
        "refusals": 2,
        "refusals_with_claim": 1,
    }


def test_every_response_is_in_the_bucket_of_its_length():
    rows = [make_located([AnswerSpan(0, 1)], length=n, key=str(n)) for n in (1, 16, 17, 64, 65, 128, 129, 256)]
    found = evaluate_locators(rows)
    assert {name: table["responses"] for name, table in found.items() if name.startswith("up to")} == {
        "up to 16": 2,
        "up to 64": 2,
        "up to 128": 2,
        "up to 256": 2,
    }


def test_few_rows_give_counts_and_no_auroc():
    assert evaluate_set(make_many(4))["end to end, judged"]["lexical"] == {"rows": 4, "without": 0}
