"""The labelled rows with their features, as arrays; what fitting, calibrating and evaluating read."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offline.extraction.extract import FeatureStore
from offline.extraction.passages import Passage
from offline.features.stacked_rows import StackedRows
from offline.records import LabelledResponse, Question, Response, SpanRow
from offline.run import Run
from probes.spans import AnswerSpan

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

MORE_ROWS = "ask more questions (--limit, more --questions), or lower --agreement"
"""What to do where rows are too few."""


@dataclass(frozen=True)
class Table:
    """R labelled responses with features."""

    rows: tuple[LabelledResponse, ...]
    passages: tuple[Passage, ...]
    place: Ints
    """Row of the feature arrays for each labelled row [R]: a response may be a filtered and an unfiltered row."""
    groups: Mapping[str, NDArray[np.float16] | StackedRows]
    """Memory maps [responses, neurons], one a token group; index them with `place`."""
    signals: dict[str, Floats]
    """Free signals [R]."""

    @property
    def labels(self) -> Ints:
        """1 = hallucinated [R]."""
        return np.array([row.label == "hallucinated" for row in self.rows], dtype=np.int64)

    def in_split(self, split: str) -> Mask:
        """Which rows are of a split [R]."""
        return np.array([row.split == split for row in self.rows])

    def features(self, group: str, rows: Mask) -> NDArray[np.float64]:
        """CETT of some rows, all neurons [n, neurons], float64 in memory."""
        return np.asarray(self.groups[group][self.place[rows]], dtype=np.float64)


def stack_tables(first: Table, second: Table) -> Table:
    """The rows of both, the second's behind the first's; no features are copied."""
    responses = first.groups["answer"].shape[0]
    return Table(
        (*first.rows, *second.rows),
        (*first.passages, *second.passages),
        np.concatenate([first.place, second.place + responses]),
        {name: StackedRows(np.asarray(rows), np.asarray(second.groups[name])) for name, rows in first.groups.items()},
        {name: np.concatenate([values, second.signals[name]]) for name, values in first.signals.items()},
    )


def extract_features(
    run: Run,
    labels: Sequence[LabelledResponse],
    spans: Sequence[SpanRow],
    questions: Sequence[Question],
    greedy: Sequence[Response],
    upstream: str,
    *,
    name: str = "features",
) -> Table:
    """Stage 7. Features of every labelled response that has a span.

    Raises:
        ValueError: There is none.
    """
    by_id = {question.question_id: question for question in questions}
    answers = {row.question_id: row for row in greedy}
    spans_of: dict[str, list[AnswerSpan]] = defaultdict(list)
    for span in spans:
        spans_of[span.question_id].append(AnswerSpan(span.token_start, span.token_end))
    keys = [key for key in dict.fromkeys(row.question_id for row in labels) if key in spans_of]
    if not keys:
        raise ValueError(f"no labelled response has an answer span: {MORE_ROWS}")
    passages = [
        Passage(key, tuple(run.encode(by_id[key])), answers[key].token_ids, tuple(spans_of[key])) for key in keys
    ]
    settings = {"spans": upstream, **run.extraction_settings}
    store = FeatureStore(run.out / name, keys, sum(run.checkpoint.widths), settings)
    run.extract(passages, store)
    at = {key: place for place, key in enumerate(keys)}
    kept = tuple(row for row in labels if row.question_id in at)
    place = np.array([at[row.question_id] for row in kept], dtype=np.int64)
    signals = {name: np.asarray(store.signals[place, number]) for number, name in enumerate(store.signal_names)}
    return Table(kept, tuple(passages), place, store.groups, signals)
