"""Ways to find the answer tokens of a response: lexical, by a linear head, by both; and what they are judged by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offline.locating.sentence_answers import SentenceAnswer
from probes.spans import AnswerSpan, locate_answer

Spans = list[AnswerSpan]
Logits = NDArray[np.float64]
"""Of the locator head, one a token [T]."""


@dataclass(frozen=True)
class Cuts:
    """Logits of the head from which something is taken."""

    token: float
    claim: float
    """Mean over the tokens of a lexical claim."""


def locate_all(answer: SentenceAnswer, logits: Logits, cuts: Cuts) -> dict[str, Spans]:
    """The spans of every way; none where it finds no claim.

    Args:
        answer: The response.
        logits: Of its tokens [T].
        cuts: Chosen on training responses.
    """
    claims = locate_claims(answer)
    runs = find_runs(logits >= cuts.token)
    found: Mapping[str, Spans] = {
        "gold": [answer.gold] if answer.gold else [],
        "short answer": [answer.short] if answer.short else [],
        "whole response": [AnswerSpan(0, len(answer.offsets))],
        "lexical": claims,
        "lexical, first claim": claims[:1],
        "head": runs,
        "head, best run": _best(runs, logits, np.max),
        "lexical, best by head": _best(claims, logits, np.mean),
        "lexical, kept by head": keep_claims(claims, logits, cuts.claim),
        "lexical, best kept by head": _best(keep_claims(claims, logits, cuts.claim), logits, np.mean),
    }
    return dict(found)


def locate_claims(answer: SentenceAnswer) -> Spans:
    """What the service's locator finds."""
    return locate_answer(answer.question.question, answer.response.text, answer.offsets)


def keep_claims(claims: Sequence[AnswerSpan], logits: Logits, cut: float) -> Spans:
    """Those whose mean logit reaches the cut."""
    return [span for span in claims if logits[span.start : span.end].mean() >= cut]


def find_runs(flags: NDArray[np.bool_]) -> Spans:
    """The maximal runs of flagged tokens [T]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [AnswerSpan(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def mask_of(spans: Sequence[AnswerSpan], length: int) -> NDArray[np.bool_]:
    """Which of the tokens are in any of the spans [T]."""
    mask = np.zeros(length, dtype=np.bool_)
    for span in spans:
        mask[span.start : span.end] = True
    return mask


def choose_claim_cut(answers: Sequence[SentenceAnswer], logits: Sequence[Logits]) -> float:
    """The cut of claims with the highest token F1 on responses with a gold span or a refusal, of 50 quantiles."""
    claims = [locate_claims(answer) for answer in answers]
    means = [
        [float(own[span.start : span.end].mean()) for span in spans] for own, spans in zip(logits, claims, strict=True)
    ]
    gold = [mask_of([a.gold] if a.gold else [], len(a.offsets)) for a in answers]
    hits = np.array([g[s.start : s.end].sum() for g, spans in zip(gold, claims, strict=True) for s in spans])
    sizes = np.array([len(span) for spans in claims for span in spans])
    flat, wanted = np.array([mean for row in means for mean in row]), sum(int(mask.sum()) for mask in gold)

    def f1(cut: float) -> float:
        kept = flat >= cut
        return float(2 * hits[kept].sum() / (sizes[kept].sum() + wanted))

    return float(max(np.quantile(flat, np.linspace(0, 0.98, 50)), key=f1))


def _best(spans: Sequence[AnswerSpan], logits: Logits, reduce: Callable[[Logits], float]) -> Spans:
    return [max(spans, key=lambda span: float(reduce(logits[span.start : span.end])))] if spans else []
