"""The risk of a response that goes on: at each token that of a fresh look, though each claim is judged once."""

import random

import pytest

from service.guard import running
from service.guard.judge import judge, judge_spans
from service.guard.running import RunningRisk
from tests.unit.service.responses import COMBINED, make_probe, make_response

QUESTION = "What is the capital of France?"
TEXTS = (
    "It is Paris. It was Lyon in 1790, and 3 million people live there. I don't know more! See Rome (Italy).",
    "I don't know.\nMr. Smith said: the capital of France is Bordeaux.\n\n1. Nice\n2. Metz\n",
    "\u5df4\u9ece\u3002It is Paris",
)


def prefix(text, scores, at):
    return make_response(text[:at], scores[: at + 1])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("locator", ["lexical", "claims", "response"])
def test_it_is_at_each_token_what_a_fresh_look_says(text, locator):
    chance = random.Random(text)
    scores, probe = [chance.gauss(0, 2) for _ in range(len(text) + 1)], make_probe(risk=COMBINED)
    growing = RunningRisk(probe, question=QUESTION, locator=locator)
    risks = []
    for at in range(1, len(text) + 1):
        response = prefix(text, scores, at)
        risks.append(growing.of(response))
        assert risks[-1] == RunningRisk(probe, question=QUESTION, locator=locator).of(response)
        if growing.is_final:
            break
    assert growing.is_final is (locator == "lexical")
    whole = judge(make_response(text, scores), probe, question=QUESTION, locator=locator)
    if growing.is_final:
        assert risks[-1] == whole.risk  # and no later token changed it
    assert len(set(risks)) > 1


def test_each_claim_is_judged_once(monkeypatch):
    judged = []

    def note(response, probe, spans):
        judged.extend(spans)
        return judge_spans(response, probe, spans)

    monkeypatch.setattr(running, "judge_spans", note)
    text = "It is Paris. It was Lyon in 1790. " * 20
    growing, scores = RunningRisk(make_probe(), question=QUESTION, locator="claims"), [0.0] * (len(text) + 1)
    for at in range(1, len(text) + 1):
        growing.of(prefix(text, scores, at))
    assert len(judged) == len(set(judged)) < 100


def test_a_claim_without_a_score_counts_as_the_riskiest():
    text = "It is Paris. It is Rome. It is Lyon. "
    scores = [0.0] * (len(text) + 1)
    scores[text.index("Rome") + 2] = float("nan")
    growing = RunningRisk(make_probe(), question=QUESTION, locator="claims")
    risks = [growing.of(prefix(text, scores, at)) for at in (14, len(text))]
    assert risks[0] is not None
    assert risks[1] is None
