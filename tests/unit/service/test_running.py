"""The risk of a response that goes on: at each token that of a fresh look, though each claim is judged once."""

import random

import pytest

from service.engines.base import RowEvidence
from service.guard import running
from service.guard.judge import judge_spans
from service.guard.response import ModelResponse, ResponseToken
from service.guard.running import RunningRisk
from tests.unit.service.responses import COMBINED, make_probe, make_response

QUESTION = "What is the capital of France?"
TEXTS = (
    "It is Paris. It was Lyon in 1790, and 3 million people live there. I don't know more! See Rome (Italy).",
    "I don't know.\nMr. Smith said: the capital of France is Bordeaux.\n\n1. Nice\n2. Metz\n",
    "\u5df4\u9ece\u3002It is Paris",
)


def cut_into_tokens(text, chance):
    """Tokens of one to four characters."""
    tokens, start = [], 0
    while start < len(text):
        end = min(len(text), start + chance.randrange(1, 5))
        tokens.append(ResponseToken(len(tokens), text[start:end], start, end, chance.uniform(-3, 0), chance.random()))
        start = end
    return tokens


def prefix(tokens, scores, n):
    rows = tuple(RowEvidence((score,)) for score in scores[: n + 1])
    return ModelResponse("".join(token.text for token in tokens[:n]), tuple(tokens[:n]), rows)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("locator", ["lexical", "claims", "response"])
def test_it_is_at_each_token_what_a_fresh_look_says(text, locator, seed):
    chance = random.Random(seed)
    tokens, probe = cut_into_tokens(text, chance), make_probe(risk=COMBINED)
    scores = [chance.gauss(0, 2) for _ in range(len(tokens) + 1)]
    if seed == 0:
        scores[chance.randrange(len(scores))] = float("nan")
    growing = RunningRisk(probe, question=QUESTION, locator=locator)
    risks = []
    for n in range(1, len(tokens) + 1):
        fresh = RunningRisk(probe, question=QUESTION, locator=locator).of(prefix(tokens, scores, n))
        if growing.is_final:
            assert fresh == risks[-1]
        else:
            risks.append(growing.of(prefix(tokens, scores, n)))
            assert risks[-1] == fresh
    assert growing.is_final is (locator == "lexical")
    assert len(set(risks)) > 1 or seed == 0


def test_each_claim_is_judged_once(monkeypatch):
    judged = []

    def note(response, probe, spans):
        judged.extend(spans)
        return judge_spans(response, probe, spans)

    monkeypatch.setattr(running, "judge_spans", note)
    text = "It is Paris. It was Lyon in 1790. " * 20
    tokens = cut_into_tokens(text, random.Random(0))
    growing, scores = RunningRisk(make_probe(), question=QUESTION, locator="claims"), [0.0] * (len(tokens) + 1)
    for n in range(1, len(tokens) + 1):
        growing.of(prefix(tokens, scores, n))
    assert len(judged) == len(set(judged)) < 100


def test_a_claim_without_a_score_counts_as_the_riskiest():
    text = "It is Paris. It is Rome. It is Lyon. "
    scores = [0.0] * (len(text) + 1)
    scores[text.index("Rome") + 2] = float("nan")
    growing = RunningRisk(make_probe(), question=QUESTION, locator="claims")
    risks = [growing.of(make_response(text[:n], scores[: n + 1])) for n in (14, len(text))]
    assert risks[0] is not None
    assert risks[1] is None
