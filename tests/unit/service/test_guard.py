"""The guard's arithmetic against numbers worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from probes.calibration import Calibration
from probes.domain import Domain, PartRange
from probes.neurons import NeuronSet
from probes.probe import Probe
from probes.risk import RiskModel
from service.engines.base import RowEvidence
from service.guard import judge, running_risk, score_token, unscored
from service.response import ModelResponse, ResponseToken

CETT_ALONE = {"cett": 1.0}
COMBINED = {"cett": 0.8, "mean_logprob": -0.3, "min_logprob": -0.4, "max_entropy": 0.2, "length": 0.05}
IDENTITY = Calibration("platt", slope=1.0, offset=0.0)


def make_probe(position="own", locator="response", weights=(2.0, -1.0), risk=CETT_ALONE) -> Probe:
    return Probe(
        name="p",
        version="1",
        neurons=NeuronSet.from_flat((4, 4), np.asarray([1, 6])[: len(weights)]),
        weights=np.asarray(weights, dtype=np.float32),
        norms=np.ones(len(weights), dtype=np.float32),
        intercept=0.5,
        position=position,
        risk_model=RiskModel(risk, intercept=0.0, calibration=IDENTITY),
        domain=Domain({"cett": PartRange(-2.0, 0.0, 2.0), "min_logprob": PartRange(-2.0, -1.0, 0.0)}, cutoff=1.5),
        threshold=0.7,
        locator=locator,
    )


def make_response(text: str, scores, *, neurons=None) -> ModelResponse:
    """A token a character; a row a score."""
    tokens = tuple(
        ResponseToken(ord(c) % 256, c, at, at + 1, logprob=-0.1 * (at + 1), entropy=0.5 * at)
        for at, c in enumerate(text)
    )
    rows = tuple(
        None if score is None else RowEvidence((score,), None if neurons is None else np.asarray(neurons[at]))
        for at, score in enumerate(scores)
    )
    return ModelResponse(text, tokens, rows)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


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
    judgement = judge(
        make_response("ab", scores, neurons=cett), make_probe(), question="q", locator="default", explains=True
    )
    assert judgement.explain is not None
    assert [(share.layer, share.neuron, share.weight) for share in judgement.explain] == [(0, 1, 2.0), (1, 2, -1.0)]
    assert [share.contribution for share in judgement.explain] == pytest.approx([2.0 * 1.5, -1.0 * 2.0])
    assert sum(share.contribution for share in judgement.explain) + 0.5 == pytest.approx(judgement.logit)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_never_looks_like_a_risk(bad):
    judgement = judge(make_response("abc", [0.0, 1.0, bad, 1.0]), make_probe(), question="q", locator="default")
    assert (judgement.status, judgement.risk, judgement.logit) == ("failed", None, None)
    assert judgement.failure == "not_finite"
    assert judgement.token_scores[1] == (None, None)
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


@pytest.mark.parametrize("text", ["", "I don't know."])
def test_no_claim_means_no_risk(text):
    response = make_response(text, [0.0] * (len(text) + 1))
    judgement = judge(response, make_probe(), question="Who was it?", locator="lexical")
    assert (judgement.status, judgement.risk, judgement.spans) == ("no_answer", None, ())
    assert judgement.signals.mean_logprob is None


def test_a_nan_log_probability_becomes_null_and_not_nan():
    token = ResponseToken(1, "a", 0, 1, logprob=math.nan, entropy=math.inf)
    response = ModelResponse("a", (token,), (RowEvidence((0.0,)), RowEvidence((1.0,))))
    signals = judge(response, make_probe(), question="q", locator="default").signals
    assert (signals.mean_logprob, signals.max_entropy) == (None, None)


def test_running_risk_of_all_tokens_is_the_risk():
    response = make_response("abc", [9.0, 1.0, -2.0, 4.0])
    judgement = judge(response, make_probe(), question="q", locator="default")
    assert running_risk(response, make_probe(), question="q", locator="default") == judgement.risk


def test_a_span_that_is_still_being_written_is_not_judged_while_it_runs():
    question = "What is the capital of France?"
    for text, is_judged in (("It is Par", False), ("It is Paris", False), ("It is Paris.", True)):
        response = make_response(text, [0.0] * (len(text) + 1))
        risk = running_risk(response, make_probe(), question=question, locator="lexical")
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
    assert judgement.token_scores == ((None, None),) * 3


def combined_risk(logits, tokens) -> float:
    """Worked out apart from the guard, over the tokens of one span."""
    logprobs = [token.logprob for token in tokens]
    return sigmoid(
        0.8 * np.mean(logits)
        - 0.3 * np.mean(logprobs)
        - 0.4 * min(logprobs)
        + 0.2 * max(token.entropy for token in tokens)
        + 0.05 * len(tokens)
    )


@pytest.mark.parametrize("position", ["own", "predicting"])
def test_free_signals_stay_with_the_token_whichever_row_scores_it(position):
    """Under `own` a token's CETT row comes one step after the row that gave its log-probability."""
    scores, probe = [9.0, 1.0, -2.0, 4.0], make_probe(position, risk=COMBINED)
    response = make_response("abc", scores)
    judgement = judge(response, probe, question="q", locator="default")
    logits = [score + 0.5 for score in (scores[1:] if position == "own" else scores[:3])]
    assert judgement.risk == pytest.approx(combined_risk(logits, response.tokens))
    assert judgement.logit == pytest.approx(np.mean(logits))
    for at, score in enumerate(judgement.token_scores):
        assert score.logit == pytest.approx(logits[at])
        assert score.risk == pytest.approx(combined_risk(logits[at : at + 1], response.tokens[at : at + 1]))


def test_a_span_and_a_response_are_judged_by_the_tokens_that_each_holds():
    text, question = "It is Paris. It was Rome.", "What is the capital of France?"
    scores = [0.01 * at * (-1) ** at for at in range(len(text) + 1)]
    response, probe = make_response(text, scores), make_probe(risk=COMBINED)
    judgement = judge(response, probe, question=question, locator="lexical")
    spans = [part.span for part in judgement.spans]
    assert [text[span.start : span.end] for span in spans] == ["Paris", "Rome"]
    logits = [score + 0.5 for score in scores[1:]]
    for part in judgement.spans:
        inside = slice(part.span.start, part.span.end)
        assert part.risk == pytest.approx(combined_risk(logits[inside], response.tokens[inside]))
    at = [index for span in spans for index in range(span.start, span.end)]
    both = combined_risk([logits[index] for index in at], [response.tokens[index] for index in at])
    assert judgement.risk == pytest.approx(both)


def test_one_span_of_one_token_has_the_risk_of_its_token_to_the_last_bit():
    response, probe = make_response("a", [0.3, 1 / 3]), make_probe(risk=COMBINED)
    judgement = judge(response, probe, question="q", locator="response")
    running = running_risk(response, probe, question="q", locator="response")
    assert judgement.risk == judgement.spans[0].risk == judgement.token_scores[0].risk == running


@pytest.mark.parametrize("position", ["own", "predicting"])
def test_the_running_risk_ends_at_the_risk_to_the_last_bit(position):
    response = make_response("abcdefg", [0.1 * (-1.7) ** at for at in range(8)])
    probe = make_probe(position, risk=COMBINED)
    judgement = judge(response, probe, question="q", locator="default")
    assert running_risk(response, probe, question="q", locator="default") == judgement.risk


def spoil(response, at, **changes) -> ModelResponse:
    tokens = list(response.tokens)
    tokens[at] = replace(tokens[at], **changes)
    return ModelResponse(response.text, tuple(tokens), response.rows)


@pytest.mark.parametrize("changes", [{"logprob": math.nan}, {"logprob": -math.inf}, {"entropy": math.nan}])
def test_a_free_signal_that_is_not_finite_is_a_failure_where_it_is_used(changes):
    response = spoil(make_response("abc", [0.0, 1.0, 2.0, 3.0]), 1, **changes)
    judgement = judge(response, make_probe(risk=COMBINED), question="q", locator="default")
    assert (judgement.status, judgement.risk, judgement.logit) == ("failed", None, None)
    assert (judgement.failure, judgement.out_of_domain) == ("not_finite", None)
    assert [score.risk is None for score in judgement.token_scores] == [False, True, False]
    assert running_risk(response, make_probe(risk=COMBINED), question="q", locator="default") is None


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
