"""Numbers that are missing or not finite never look like a risk."""

import math

import pytest

from service.engines.base import RowEvidence
from service.guard.judge import judge
from service.guard.judgement import TokenScore
from service.guard.response import ModelResponse, ResponseToken
from service.guard.running import RunningRisk
from tests.unit.service.responses import COMBINED, make_probe, make_response, sigmoid, spoil


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_never_looks_like_a_risk(bad):
    judgement = judge(make_response("abc", [0.0, 1.0, bad, 1.0]), make_probe(), question="q", locator="default")
    assert (judgement.status, judgement.risk, judgement.logit) == ("failed", None, None)
    assert judgement.failure == "not_finite"
    assert judgement.token_scores[1] == TokenScore()
    assert judgement.spans[0].risk is None


@pytest.mark.parametrize("rows", [[0.0, 1.0, None, 1.0], [0.0, 1.0, 1.0], []])
def test_a_missing_row_is_a_failure(rows):
    judgement = judge(make_response("abc", rows), make_probe(), question="q", locator="default")
    assert (judgement.status, judgement.risk, judgement.failure) == ("failed", None, "missing_rows")


def test_a_missing_row_outside_the_answer_is_partial():
    scores: list[float | None] = [0.0] * 13
    scores[1] = None  # the first token's own row
    question = "What is the capital of France?"
    judgement = judge(make_response("It is Paris.", scores), make_probe(), question=question, locator="lexical")
    assert judgement.status == "partial"
    assert judgement.risk == pytest.approx(sigmoid(0.5))


def test_a_nan_log_probability_becomes_null_and_not_nan():
    token = ResponseToken(1, "a", 0, 1, logprob=math.nan, entropy=math.inf)
    response = ModelResponse("a", (token,), (RowEvidence((0.0,)), RowEvidence((1.0,))))
    signals = judge(response, make_probe(), question="q", locator="default").signals
    assert (signals.mean_logprob, signals.max_entropy) == (None, None)


@pytest.mark.parametrize("changes", [{"logprob": math.nan}, {"logprob": -math.inf}, {"entropy": math.nan}])
def test_a_free_signal_that_is_not_finite_is_a_failure_where_it_is_used(changes):
    response = spoil(make_response("abc", [0.0, 1.0, 2.0, 3.0]), 1, **changes)
    judgement = judge(response, make_probe(risk=COMBINED), question="q", locator="default")
    assert (judgement.status, judgement.risk, judgement.logit) == ("failed", None, None)
    assert (judgement.failure, judgement.out_of_domain) == ("not_finite", None)
    assert [score.risk is None for score in judgement.token_scores] == [False, True, False]
    assert RunningRisk(make_probe(risk=COMBINED), question="q", locator="default").of(response) is None


def test_a_free_signal_that_is_not_used_spoils_no_risk_but_leaves_the_domain_unknown():
    response = spoil(make_response("abc", [0.0, 1.0, 2.0, 3.0]), 1, logprob=math.nan)
    judgement = judge(response, make_probe(), question="q", locator="default")
    assert (judgement.status, judgement.out_of_domain) == ("scored", None)
    assert judgement.risk == pytest.approx(sigmoid(2.5))


def test_a_free_signal_outside_the_answer_makes_it_partial():
    response = spoil(make_response("It is Paris.", [0.0] * 13), 0, logprob=math.nan)
    question = "What is the capital of France?"
    judgement = judge(response, make_probe(risk=COMBINED), question=question, locator="lexical")
    assert judgement.status == "partial"
    assert judgement.risk is not None


@pytest.mark.parametrize("rows", [[0.0, 1.0, None, 1.0], [0.0, 1.0, math.nan, 1.0], []])
def test_a_silent_tap_is_a_failure_even_where_the_risk_does_without_the_probe(rows):
    probe = make_probe(risk={"min_logprob": -1.0})
    assert judge(make_response("abc", rows), probe, question="q", locator="default").status == "failed"
