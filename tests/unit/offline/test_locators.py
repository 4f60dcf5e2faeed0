"""Ways to locate answer tokens."""

import numpy as np
import pytest

from offline.locating.locators import Cuts, choose_claim_cut, find_runs, keep_claims, locate_all, locate_claims, mask_of
from offline.locating.sentence_answers import SentenceAnswer
from offline.records import Question, Response
from probes.spans import AnswerSpan


def make_answer(text, *, question="What is the capital of France?", gold=None, verdict="right", key="k"):
    """One token a word, with the space before it."""
    offsets, at = [], 0
    for word in text.split(" "):
        end = at + len(word) + (at > 0)
        offsets.append((at, end))
        at = end
    asked = Question(f"s/{key}", question, ("Paris",), "s")
    response = Response(asked.question_id, 0, text, tuple(range(len(offsets))), "stop")
    return SentenceAnswer(asked, response, tuple(offsets), "test", key, "sentence", verdict, gold, gold)


ANSWER = make_answer("The capital of France is Paris. It lies on the Seine.", gold=AnswerSpan(5, 6))


@pytest.mark.parametrize("length", [1, 2, 9])
def test_runs_are_those_of_a_slow_loop(length):
    for bits in range(2**length):
        flags = np.array([bool(bits >> at & 1) for at in range(length)])
        expected, start = [], None
        for at in range(length + 1):
            if at < length and flags[at]:
                start = at if start is None else start
            elif start is not None:
                expected.append(AnswerSpan(start, at))
                start = None
        assert find_runs(flags) == expected
        assert (mask_of(expected, length) == flags).all()


def test_every_way_takes_what_it_says():
    claims = locate_claims(ANSWER)
    assert len(claims) == 2
    assert claims[0] == AnswerSpan(5, 6)
    logits = np.full(11, -4.0)
    logits[[2, 5]] = 1.0, 3.0
    found = locate_all(ANSWER, logits, Cuts(token=0.0, claim=0.0))
    assert found["head"] == [AnswerSpan(2, 3), AnswerSpan(5, 6)]
    assert found["head, best run"] == [AnswerSpan(5, 6)]
    assert found["lexical"] == claims
    assert found["lexical, first claim"] == claims[:1]
    assert found["lexical, kept by head"] == claims[:1]
    assert found["lexical, best by head"] == claims[:1]
    assert found["whole response"] == [AnswerSpan(0, 11)]
    quiet = locate_all(ANSWER, logits - 9, Cuts(token=0.0, claim=0.0))
    assert not any(
        quiet[name] for name in ("head", "head, best run", "lexical, kept by head", "lexical, best kept by head")
    )
    assert quiet["lexical, best by head"] == claims[:1]


def test_the_claim_cut_is_the_one_with_the_highest_f1():
    draw = np.random.default_rng(0)
    answers = [ANSWER, make_answer("I am not sure.", verdict="refusal")] * 20
    logits = [draw.normal(size=len(answer.offsets)) for answer in answers]
    for own, answer in zip(logits, answers, strict=True):
        if answer.gold:
            own[5] += 1.5

    def f1(cut):
        hits = located = gold = 0
        for own, answer in zip(logits, answers, strict=True):
            mask = mask_of(keep_claims(locate_claims(answer), own, cut), len(own))
            wanted = mask_of([answer.gold] if answer.gold else [], len(own))
            hits, located, gold = hits + (mask & wanted).sum(), located + mask.sum(), gold + wanted.sum()
        return 2 * hits / (located + gold)

    chosen = choose_claim_cut(answers, logits)
    assert f1(chosen) >= max(f1(cut) for cut in np.linspace(-2, 3, 40)) - 0.03
    assert f1(chosen) > f1(-9)
