"""The combined risk of tokens, spans and responses, worked out apart from the guard."""

import numpy as np
import pytest

from service.guard.judge import judge
from service.guard.running import RunningRisk
from tests.unit.service.responses import COMBINED, make_probe, make_response, sigmoid


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


def test_the_first_claim_decides_or_the_riskiest():
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
    first, second = (part.risk for part in judgement.spans)
    assert judgement.risk == first != second
    assert judgement.signals.length == len("Paris")
    riskiest = judge(response, probe, question=question, locator="claims")
    assert riskiest.spans == judgement.spans
    assert riskiest.risk == max(first, second)


def test_one_span_of_one_token_has_the_risk_of_its_token_to_the_last_bit():
    response, probe = make_response("a", [0.3, 1 / 3]), make_probe(risk=COMBINED)
    judgement = judge(response, probe, question="q", locator="response")
    running = RunningRisk(probe, question="q", locator="response").of(response)
    assert judgement.risk == judgement.spans[0].risk == judgement.token_scores[0].risk == running


@pytest.mark.parametrize("position", ["own", "predicting"])
def test_the_running_risk_ends_at_the_risk_to_the_last_bit(position):
    response = make_response("abcdefg", [0.1 * (-1.7) ** at for at in range(8)])
    probe = make_probe(position, risk=COMBINED)
    judgement = judge(response, probe, question="q", locator="default")
    assert RunningRisk(probe, question="q", locator="default").of(response) == judgement.risk
