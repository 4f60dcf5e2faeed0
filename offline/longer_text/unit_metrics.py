"""Unit metrics: how well a score of units (sentences, tokens, responses) agrees with labels, resampled by document.

Units of one document are not independent, so a bootstrap draws whole documents; a draw is a weight for each unit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline.longer_text.labelled_text import hash_of
from offline.longer_text.unit_scores import RISKS, ScoredUnit
from offline.metrics import LEVEL, RESAMPLES, Floats, Interval, Ints, auroc, length_correlation

WeightedMetric = Callable[[Floats], float]
"""Weights of the units [U] -> a value; nan where the weights leave a class out."""


def auroc_of(scores: Floats, labels: Ints) -> WeightedMetric:
    """AUROC [U], [U]; ties count half. The scores are sorted once for all weights."""
    levels, level = np.unique(scores, return_inverse=True)

    def weighted(weights: Floats) -> float:
        positive = np.bincount(level, weights * labels, len(levels))
        negative = np.bincount(level, weights * (1 - labels), len(levels))
        below = np.cumsum(negative) - negative
        return _ratio(float((positive * (below + negative / 2)).sum()), float(positive.sum() * negative.sum()))

    return weighted


def same_text_auroc_of(scores: Floats, labels: Ints, texts: Ints) -> WeightedMetric:
    """AUROC over the pairs of units of one and the same text, all pairs alike; `texts` numbers each unit's text [U].

    The weights of the units of a text must be equal.
    """
    first, wins, pairs = [], [], []
    for rows in np.split(np.argsort(texts, kind="stable"), np.cumsum(np.bincount(texts))[:-1]):
        n_positive = int(labels[rows].sum())
        n_pairs = n_positive * (len(rows) - n_positive)
        if n_pairs:
            first.append(rows[0])
            wins.append(n_pairs * auroc(scores[rows], labels[rows]))
            pairs.append(n_pairs)
    at, won, of = np.array(first, dtype=np.int64), np.array(wins), np.array(pairs, dtype=np.float64)
    return lambda weights: _ratio(float((weights[at] * won).sum()), float((weights[at] * of).sum()))


def f1_of(flags: Floats, labels: Ints) -> WeightedMetric:
    """F1 of flagging these units [U]."""
    return lambda weights: _ratio(2 * float(weights @ (flags * labels)), float(weights @ (flags + labels)))


def best_threshold(scores: Floats, labels: Ints) -> float:
    """The score from which to flag for the highest F1; the highest of equals."""
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(labels[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + labels.sum())
    is_last_of_ties = np.append(ordered[1:] != ordered[:-1], True)
    return float(ordered[np.argmax(np.where(is_last_of_ties, f1, -1.0))])


class DocumentBootstrap:
    """Draws of documents, the same for every metric, so that differences are paired."""

    def __init__(self, documents: Ints, *, seed: int = 0, resamples: int = RESAMPLES) -> None:
        """Draw as many documents as there are, with replacement; `documents` numbers each unit's document [U]."""
        n_documents = int(documents.max()) + 1
        self._documents = documents
        self._draws = np.random.default_rng(seed).multinomial(
            n_documents, np.full(n_documents, 1 / n_documents), size=resamples
        )

    def values(self, metric: WeightedMetric) -> Floats:
        """The metric of all units, then that of each draw [1 + R]."""
        whole = np.ones(len(self._documents))
        drawn = (draw[self._documents].astype(np.float64) for draw in self._draws)
        return np.array([metric(whole), *map(metric, drawn)])


def interval_of(values: Floats) -> Interval:
    """Value and percentile interval; draws that lack a class are left out."""
    low, high = np.nanquantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values[0]), float(low), float(high))


class UnitTable:
    """The units of one kind and set in columns, and what can be said of each score."""

    def __init__(self, units: Sequence[ScoredUnit]) -> None:
        """Take the units.

        Raises:
            ValueError: Half of the documents has units of one class only.
        """
        self.units = units
        self.labels = np.array([unit.label for unit in units], dtype=np.int64)
        self.lengths = np.array([unit.scores["length"] for unit in units])
        self.texts = _numbers([unit.text_id for unit in units])
        documents = _numbers([unit.document for unit in units])
        self.in_b = np.array([int(hash_of(unit.document), 16) % 2 == 1 for unit in units], dtype=np.bool_)
        if any(len(set(self.labels[half])) < 2 for half in (self.in_b, ~self.in_b)):
            raise ValueError(f"{len(units)} units: half of them are all of one class; score more texts")
        self.n_documents = len(set(documents))
        self.all = DocumentBootstrap(documents)
        self.half_b = DocumentBootstrap(_numbers(documents[self.in_b]))
        self._of_risk = self.all.values(auroc_of(self.column("risk"), self.labels))

    def column(self, name: str) -> Floats:
        """One score [U]."""
        return np.array([unit.scores[name] for unit in self.units])

    def judge(self, name: str, threshold: float) -> dict[str, Any]:
        """What one score is worth; the keys are described at `summarise_units`."""
        scores = self.column(name)
        values = self.all.values(auroc_of(scores, self.labels))
        row: dict[str, Any] = {"auroc": interval_of(values).as_list()}
        if self.n_mixed:
            row["auroc_same_text"] = interval_of(
                self.all.values(same_text_auroc_of(scores, self.labels, self.texts))
            ).as_list()
        if name != "risk":
            row["risk_minus_this"] = interval_of(self._of_risk - values).as_list()
        chosen = best_threshold(scores[~self.in_b], self.labels[~self.in_b])
        row["chosen"] = {"threshold": chosen, **self.flag(scores >= chosen)}
        if name in RISKS:
            row["shipped"] = {"threshold": threshold, **self.flag(scores >= threshold)}
        if np.ptp(self.lengths) and name != "length":
            row["length_correlation"] = length_correlation(scores, self.lengths, self.labels)
        return row

    def flag(self, flags: NDArray[np.bool_]) -> dict[str, Any]:
        """F1 of flagging these units [U], and the share flagged, both in half B."""
        flags_b = flags[self.in_b].astype(np.float64)
        f1 = interval_of(self.half_b.values(f1_of(flags_b, self.labels[self.in_b])))
        return {"f1": f1.as_list(), "flagged": round(float(flags_b.mean()), 4)}

    @property
    def n_mixed(self) -> int:
        """Texts with units of both classes."""
        shares = np.bincount(self.texts, self.labels) / np.bincount(self.texts)
        return int(((shares > 0) & (shares < 1)).sum())


def summarise_units(units: Sequence[ScoredUnit], names: Sequence[str], threshold: float) -> dict[str, Any]:
    """Every score of a set's units against the labels.

    Args:
        units: Of one kind and set.
        names: Of the scores.
        threshold: The probe's shipped one.

    Returns:
        Counts and, a score, `auroc`; `auroc_same_text` (pairs of one text only); `risk_minus_this` (AUROC of the risk
        less this one's); `chosen` (the threshold that is best for F1 on the documents of half A, judged on those of
        half B) and, of the risks, `shipped` (judged on the same half B); the Spearman correlation with the unit's
        length in tokens within each class. `flag_all` is what flagging every unit of half B reaches. Lists are [value,
        low, high].

    Raises:
        ValueError: Half of the documents has units of one class only.
    """
    table = UnitTable(units)
    return {
        "texts": len(set(table.texts)),
        "texts_with_both_classes": table.n_mixed,
        "documents": table.n_documents,
        "hallucinated": int(table.labels.sum()),
        "faithful": int((1 - table.labels).sum()),
        "without_located_tokens": sum(not unit.has_claim for unit in units),
        "out_of_domain": sum(unit.is_outside for unit in units),
        "median_tokens": float(np.median(table.lengths)),
        "flag_all": table.flag(np.ones(len(units), dtype=np.bool_)),
        "scores": {name: table.judge(name, threshold) for name in names},
    }


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")


def _numbers(names: Sequence[str] | Ints) -> Ints:
    return np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64)
