"""How well each way of locating finds the gold tokens of held-out responses, and what its spans make of the probe.

    tokens       precision, recall, F1 over the tokens of responses with a gold span
    end to end   AUROC of pooled logit and risk on located spans, on gold spans and on the whole response
    length       rank correlation of the risk with the response length within each class
    no claim     responses in which nothing is located, and what the judge says of them

Intervals are bootstraps of whole responses. Differences are paired.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline.locating.locators import Spans, mask_of
from offline.locating.sentence_answers import SentenceAnswer
from offline.longer_text.unit_metrics import DocumentBootstrap, interval_of
from offline.metrics import auroc, bootstrap, bootstrap_difference, length_correlation
from probes.parts import Part
from probes.probe import Probe

BUCKETS = (16, 64, 128, 256)
"""Longest response of each, in tokens."""
LEAST = 10
"""Rows of each class that an AUROC needs."""
ORACLES = ("gold", "short answer")
"""Know what was answered; all others see question and response only."""


@dataclass(frozen=True)
class Located:
    """A held-out response, what every way located in it, and what the probe makes of each."""

    answer: SentenceAnswer
    spans: Mapping[str, Spans]
    logit: Mapping[str, float]
    """Pooled logit of the probe over the spans of each way that located any."""
    risk: Mapping[str, float]

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.answer.offsets)


def pool(answer: SentenceAnswer, spans: Mapping[str, Spans], numbers: NDArray[np.float32], probe: Probe) -> Located:
    """Pool the response's numbers [T, N + 2] (`offline.locating.token_rows`) over the spans of every way.

    A way is added that needs them: of the lexical claims the one with the highest risk of its own.
    """
    logprobs, entropies = numbers[:, -2:].astype(float).T.tolist()
    scores = numbers[:, :-2].astype(float).tolist()

    def measure(found: Spans) -> dict[Part, float]:
        return probe.measure(found, scores, logprobs, entropies)

    claims = spans["lexical"]
    riskiest = [max(claims, key=lambda span: probe.risk_model.risk(measure([span])))] if claims else []
    spans = {**spans, "lexical, riskiest claim": riskiest}
    parts = {name: measure(found) for name, found in spans.items() if found}
    return Located(
        answer,
        spans,
        {name: part["cett"] for name, part in parts.items()},
        {name: probe.risk_model.risk(part) for name, part in parts.items()},
    )


def evaluate_locators(rows: Sequence[Located]) -> dict[str, Any]:
    """All tables, over all rows and by length bucket."""
    buckets = {f"up to {limit}": [row for row in rows if _bucket(row) == limit] for limit in BUCKETS}
    sets = {"all": list(rows), **buckets}
    for style in sorted({row.answer.style for row in rows}):
        sets[f"asked: {style}"] = [row for row in rows if row.answer.style == style]
    return {name: evaluate_set(members) for name, members in sets.items() if members}


def evaluate_set(rows: Sequence[Located]) -> dict[str, Any]:
    """The tables of some rows."""
    marked = [row for row in rows if row.answer.gold]
    judged = [row for row in rows if row.answer.verdict in ("right", "wrong")]
    names = list(rows[0].spans)
    return {
        "responses": len(rows),
        "verdicts": dict(Counter(row.answer.verdict for row in rows)),
        "marked": dict(Counter(row.answer.verdict for row in marked)),
        "median_tokens": float(np.median([row.length for row in rows])),
        "tokens": judge_tokens(marked, names),
        "end to end, marked": {name: judge_scores(marked, name) for name in names},
        "end to end, judged": {name: judge_scores(judged, name) for name in names if name not in ORACLES},
        "no claim": {name: count_without(rows, name) for name in names if name not in ORACLES},
    }


def judge_tokens(rows: Sequence[Located], names: Sequence[str]) -> dict[str, Any]:
    """Token precision, recall and F1 of every way, F1 less the lexical one's, and the share of exact spans."""
    if not rows:
        return {}
    counts = {name: np.array([_count(row, name) for row in rows], dtype=np.float64) for name in names}
    bootstrap_rows = DocumentBootstrap(np.arange(len(rows)))

    def values(name: str, over: tuple[int, ...]) -> NDArray[np.float64]:
        """Hits, once a column, over the sum of these columns of counts."""
        hits, below = counts[name][:, 0] * len(over), counts[name][:, list(over)].sum(axis=1)
        return bootstrap_rows.values(lambda weights: float(weights @ hits) / max(float(weights @ below), 1.0))

    f1 = {name: values(name, (1, 2)) for name in names}
    return {
        name: {
            "precision": interval_of(values(name, (1,))).as_list(),
            "recall": interval_of(values(name, (2,))).as_list(),
            "f1": interval_of(f1[name]).as_list(),
            "f1_minus_lexical": interval_of(f1[name] - f1["lexical"]).as_list(),
            "mean_f1": float(np.mean(2 * counts[name][:, 0] / counts[name][:, 1:].sum(axis=1))),
            "exact": float(np.mean([row.spans[name] == [row.answer.gold] for row in rows])),
        }
        for name in names
    }


def judge_scores(rows: Sequence[Located], name: str) -> dict[str, Any]:
    """AUROC of the probe on the spans of one way, over the rows in which it located any.

    With AUROC less that of gold, of the model's short answer found again, of the whole response and of all lexical
    claims, each on the rows that have both. Gold knows the label: it is the accepted answer wherever a right response
    has it, claimed or not. The short answer is marked alike in both classes.
    """
    own = [row for row in rows if name in row.risk]
    result: dict[str, Any] = {"rows": len(own), "without": len(rows) - len(own)}
    labels = _labels(own)
    if min(np.bincount(labels, minlength=2)) < LEAST:
        return result
    lengths = np.array([row.length for row in own], dtype=np.float64)
    for score in ("logit", "risk"):
        values = _column(own, score, name)
        result[score] = {
            "auroc": bootstrap(auroc, values, labels).as_list(),
            "length_correlation": length_correlation(values, lengths, labels),
        }
        for other in (*ORACLES, "whole response", "lexical"):
            both = [row for row in own if other in row.risk]
            if other != name and min(np.bincount(_labels(both), minlength=2)) >= LEAST:
                own_values, others = _column(both, score, name), _column(both, score, other)
                found = bootstrap_difference(auroc, own_values, others, _labels(both))
                result[score][f"minus {other}"] = [*found.as_list(), len(both)]
    return result


def count_without(rows: Sequence[Located], name: str) -> dict[str, Any]:
    """Responses without a claim by one way, by verdict, and refusals in which it located one."""
    without = [row for row in rows if name not in row.risk]
    refusals = [row for row in rows if row.answer.verdict == "refusal"]
    return {
        "no_claim": len(without),
        "of_them": dict(Counter(row.answer.verdict for row in without)),
        "of_them_with_gold": sum(row.answer.gold is not None for row in without),
        "refusals": len(refusals),
        "refusals_with_claim": sum(name in row.risk for row in refusals),
    }


def _bucket(row: Located) -> int:
    return next(limit for limit in BUCKETS if row.length <= limit)


def _count(row: Located, name: str) -> tuple[int, int, int]:
    """Tokens that are both, located, and gold."""
    assert row.answer.gold is not None
    located, gold = (mask_of(spans, row.length) for spans in (row.spans[name], [row.answer.gold]))
    return int((located & gold).sum()), int(located.sum()), int(gold.sum())


def _labels(rows: Sequence[Located]) -> NDArray[np.int64]:
    return np.array([row.answer.verdict == "wrong" for row in rows], dtype=np.int64)


def _column(rows: Sequence[Located], score: str, name: str) -> NDArray[np.float64]:
    return np.array([getattr(row, score)[name] for row in rows])
