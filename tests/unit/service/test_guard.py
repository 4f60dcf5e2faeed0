"""The guard's arithmetic against numbers worked out by hand."""

import numpy as np
import pytest

from service.guard.judge import judge, score_token, unscored
from service.guard.judgement import TokenScore
from service.guard.running import RunningRisk
from tests.unit.service.responses import make_probe, make_response, sigmoid


def test_pools_own_rows_and_calibrates():
    judgement = judge(make_response("abc", [9.0, 1.0, -2.0, 4.0]), make_probe(), question="q", locator="default")
    assert judgement.status == "scored"
    assert judgement.logit == pytest.approx((1.0 - 2.0 + 4.0) / 3 + 0.5)
    assert judgement.risk == pytest.approx(sigmoid(1.5))
    assert [score.logit for score in judgement.token_scores] == pytest.approx([1.5, -1.5, 4.5])
    assert [score.risk for score in judgement.token_scores] == pytest.approx(
        [sigmoid(1.5), sigmoid(-1.5), sigmoid(4.5)]
    )
    assert [(part.span.start, part.span.end, part.risk) for part in judgement.spans] == [(0, 3, judgement.risk)]


def test_a_predicting_probe_reads_the_row_before():
    response = make_response("abc", [9.0, 1.0, -2.0])
    judgement = judge(response, make_probe("predicting"), question="q", locator="default")
    assert judgement.logit == pytest.approx((9.0 + 1.0 - 2.0) / 3 + 0.5)


def test_signals_are_taken_over_the_answer_tokens_only():
    text = "It is Paris."
    judgement = judge(
        make_response(text, [0.0] * 13), make_probe(), question="What is the capital of France?", locator="lexical"
    )
    (part,) = judgement.spans
    assert text[part.span.start : part.span.end] == "Paris"
    at = range(part.span.start, part.span.end)
    assert judgement.signals.mean_logprob == pytest.approx(np.mean([-0.1 * (i + 1) for i in at]))
    assert judgement.signals.min_logprob == pytest.approx(-0.1 * part.span.end)
    assert judgement.signals.mean_entropy == pytest.approx(np.mean([0.5 * i for i in at]))
    assert judgement.signals.max_entropy == pytest.approx(0.5 * (part.span.end - 1))
    assert judgement.signals.cett == judgement.logit
    assert judgement.signals.length == len("Paris")
    assert [judgement.is_answer(i) for i in range(len(text))] == [i in at for i in range(len(text))]


def test_explain_ranks_weight_times_mean_cett_and_sums_to_the_logit():
    cett = [[9.0, 9.0], [1.0, 4.0], [2.0, 0.0]]
    scores = [float(np.dot([2.0, -1.0], row)) for row in cett]
    judgement = judge(make_response("ab", scores, neurons=cett), make_probe(), question="q", locator="default")
    assert judgement.explain is not None
    assert [(share.layer, share.neuron, share.weight) for share in judgement.explain] == [(0, 1, 2.0), (1, 2, -1.0)]
    assert [share.contribution for share in judgement.explain] == pytest.approx([2.0 * 1.5, -1.0 * 2.0])
    assert sum(share.contribution for share in judgement.explain) + 0.5 == pytest.approx(judgement.logit)
    first, second = judgement.token_scores
    assert [(share.layer, share.contribution) for share in first.explain] == [(1, -4.0), (0, 2.0)]
    assert [(share.layer, share.contribution) for share in second.explain] == [(0, 4.0), (1, -0.0)]


def test_a_token_without_a_score_names_no_neurons():
    cett = [[0.0, 0.0], [float("nan"), 4.0], [2.0, 0.0]]
    scores = [float(np.dot([2.0, -1.0], row)) for row in cett]
    first, second = judge(
        make_response("ab", scores, neurons=cett), make_probe(), question="q", locator="default"
    ).token_scores
    assert (first.logit, first.explain) == (None, None)
    assert second.explain is not None


@pytest.mark.parametrize("text", ["", "I don't know."])
def test_no_claim_means_no_risk(text):
    response = make_response(text, [0.0] * (len(text) + 1))
    judgement = judge(response, make_probe(), question="Who was it?", locator="lexical")
    assert (judgement.status, judgement.risk, judgement.spans) == ("no_answer", None, ())
    assert judgement.signals.mean_logprob is None


def test_running_risk_of_all_tokens_is_the_risk():
    response = make_response("abc", [9.0, 1.0, -2.0, 4.0])
    judgement = judge(response, make_probe(), question="q", locator="default")
    assert RunningRisk(make_probe(), question="q", locator="default").of(response) == judgement.risk


def test_a_span_that_is_still_being_written_is_not_judged_while_it_runs():
    question = "What is the capital of France?"
    for text, is_judged in (("It is Par", False), ("It is Paris", False), ("It is Paris.", True)):
        response = make_response(text, [0.0] * (len(text) + 1))
        risk = RunningRisk(make_probe(), question=question, locator="lexical").of(response)
        assert (risk is not None) is is_judged
        assert judge(response, make_probe(), question=question, locator="lexical").status == "scored"


def test_token_scores_do_not_depend_on_the_rest_of_the_response():
    response = make_response("abcdefgh", [0.37 * at for at in range(9)])
    judgement = judge(response, make_probe(), question="q", locator="default")
    alone = zip(response.tokens, response.rows[1:], strict=True)
    assert list(judgement.token_scores) == [score_token(make_probe(), token, row) for token, row in alone]


def test_policy_off_is_disabled_and_not_zero():
    judgement = unscored(make_response("abc", []))
    assert (judgement.status, judgement.risk) == ("disabled", None)
    assert judgement.token_scores == (TokenScore(),) * 3


@pytest.mark.parametrize(("score", "is_outside"), [(0.5, False), (2.4, False), (2.6, True), (-3.6, True)])
def test_out_of_domain_is_said_and_leaves_the_risk_alone(score, is_outside):
    judgement = judge(make_response("ab", [0.0, score, score]), make_probe(), question="q", locator="default")
    assert judgement.out_of_domain is is_outside
    assert judgement.risk == pytest.approx(sigmoid(score + 0.5))


def test_without_a_score_there_is_no_word_on_the_domain():
    assert unscored(make_response("abc", [])).out_of_domain is None
    silent = judge(make_response("abc", []), make_probe(), question="q", locator="default")
    assert silent.out_of_domain is None
    nothing = judge(make_response("I don't know.", [0.0] * 14), make_probe(), question="Who?", locator="lexical")
    assert (nothing.status, nothing.out_of_domain, nothing.signals.length) == ("no_answer", None, None)
