"""AUROC and Table 1 accuracy on parts of the evaluated rows: by source, by length, by the paper's test sets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offline.evaluation.evaluate import FREE, PROBE, QUESTION, SERVED
from offline.evaluation.scores import EvaluatedRows
from offline.fitting.budgets import exact_interval
from offline.metrics import Floats, Interval, Ints, auroc, bootstrap, length_correlation

COMPARED = (SERVED, PROBE, FREE, QUESTION)
LEAST = 10
"""Rows of each class without which a slice is left out."""
BUCKETS = ((1, 2), (3, 4), (5, 8), (9, 16), (17, 64), (65, 128), (129, 256))
"""Tokens, both ends included."""

PAPER_SETS: Mapping[str, tuple[str, ...]] = {
    "TriviaQA": ("triviaqa", "trivia_qa"),
    "NQ": ("nq", "natural_questions", "naturalquestions"),
    "BioASQ": ("bioasq",),
    "NonExist": ("nonexist", "madeup"),
}
"""Column -> what the names of the sources begin with, or of NonExist contain, that fill it."""


@dataclass(frozen=True)
class Slice:
    """AUROC on some rows."""

    name: str
    faithful: int
    hallucinated: int
    auroc: Mapping[str, Interval]
    """Method -> AUROC; empty where a class has too few rows."""


def by_source(rows: EvaluatedRows) -> list[Slice]:
    """One slice a source."""
    return _slices(rows, [(str(source), rows.sources == source) for source in sorted(set(rows.sources.tolist()))])


def by_length(rows: EvaluatedRows, tokens: Ints) -> list[Slice]:
    """One slice a bucket of tokens.

    Args:
        rows: R rows.
        tokens: Of the answer or of the response [R].
    """
    return _slices(rows, [(f"{low}-{high}", (tokens >= low) & (tokens <= high)) for low, high in BUCKETS])


def correlate_length(rows: EvaluatedRows, method: str) -> dict[str, Interval]:
    """Rank correlation of a score with the response's length within each class."""
    pairs = np.stack([rows.of(method), rows.response_tokens], axis=1)

    def of(name: str) -> Interval:
        return bootstrap(lambda x, y: length_correlation(x[:, 0], x[:, 1], y)[name], pairs, rows.labels)

    return {name: of(name) for name in ("faithful", "hallucinated")}


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of the logit's sign, the mean of both classes' recalls, in %."""

    probe: Interval
    random: Interval
    """Mean over the sets of random neurons, with the lowest and highest set."""
    faithful: int
    hallucinated: int

    @property
    def is_one_sided(self) -> bool:
        """Whether one class is missing, so that this is the recall of the other."""
        return not (self.faithful and self.hallucinated)


def table_one(rows: EvaluatedRows) -> dict[str, Accuracy | None]:
    """This probe's row of Table 1, over balanced and out-of-domain rows: column -> accuracy, None without rows."""
    return {column: classify(rows, _fills(rows.sources, column)) for column in PAPER_SETS}


def classify(rows: EvaluatedRows, mask: NDArray[np.bool_]) -> Accuracy | None:
    """Accuracy on some rows at the logit 0; None where they are fewer than `LEAST`.

    On rows with as many of each class the mean of the recalls is the accuracy.
    """
    labels = rows.labels[mask]
    if len(labels) < LEAST:
        return None
    faithful, hallucinated = int((labels == 0).sum()), int((labels == 1).sum())
    sets = [100 * _balanced(values[mask], labels) for values in rows.random]
    random = Interval(float(np.mean(sets)), min(sets), max(sets))
    scores = rows.of(PROBE)[mask]
    if faithful and hallucinated:
        found = bootstrap(_balanced, scores, labels)
        probe = Interval(100 * found.value, 100 * found.low, 100 * found.high)
    else:
        hits = int(((scores > 0) == (labels == 1)).sum())
        low, high = exact_interval(hits, len(labels))
        probe = Interval(100 * hits / len(labels), 100 * low, 100 * high)
    return Accuracy(probe, random, faithful, hallucinated)


def _balanced(logits: Floats, labels: Ints) -> float:
    is_right = (logits > 0) == (labels == 1)
    return float(np.mean([is_right[labels == label].mean() for label in np.unique(labels)]))


def _slices(rows: EvaluatedRows, masks: Iterable[tuple[str, NDArray[np.bool_]]]) -> list[Slice]:
    found = []
    for name, mask in masks:
        labels = rows.labels[mask]
        counts = int((labels == 0).sum()), int((labels == 1).sum())
        is_judged = min(counts) >= LEAST
        values = {m: bootstrap(auroc, rows.of(m)[mask], labels) for m in COMPARED} if is_judged else {}
        found.append(Slice(name, *counts, values))
    return [each for each in found if each.faithful + each.hallucinated]


def _fills(sources: NDArray[np.str_], column: str) -> NDArray[np.bool_]:
    made_up = np.array(
        [any(part in source for part in PAPER_SETS["NonExist"]) for source in sources.tolist()], dtype=bool
    )
    if column == "NonExist":
        return made_up
    starts = np.array([source.startswith(PAPER_SETS[column]) for source in sources.tolist()], dtype=bool)
    return np.asarray(starts & ~made_up)
