"""The scores of every evaluated row, kept in the run's folder; what the report's curves are drawn from.

`evaluation.npz` holds plain arrays and no pickles. It belongs to one artifact, whose sha256 it carries.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from offline.evaluation.evaluate import SERVED, Contest
from offline.features.table import Floats, Ints, Mask, Table

FILE = "evaluation.npz"


@dataclass(frozen=True)
class EvaluatedRows:
    """R rows that the probe was neither fitted nor calibrated on."""

    artifact_sha256: str
    question_ids: NDArray[np.str_]
    splits: NDArray[np.str_]
    sources: NDArray[np.str_]
    labels: Ints
    """1 = hallucinated [R]."""
    answer_tokens: Ints
    """[R]."""
    response_tokens: Ints
    """[R]."""
    methods: tuple[str, ...]
    scores: Floats
    """Of each method [M, R]; higher means hallucinated."""
    random: Floats
    """Of each set of random neurons [S, R], as logits."""
    risks: Floats
    """The served risk, calibrated [R]."""
    feature_std: Floats
    """Standard deviation of each selected neuron's feature over the training rows [K], in the order of the probe."""

    def of(self, method: str) -> Floats:
        """Scores of a method [R]."""
        return np.asarray(self.scores[self.methods.index(method)])

    def take(self, rows: Mask) -> Self:
        """Some of the rows."""
        per_row = ("question_ids", "splits", "sources", "labels", "answer_tokens", "response_tokens", "risks")
        taken: dict[str, Any] = {name: getattr(self, name)[rows] for name in per_row}
        return type(self)(**{**vars(self), **taken, "scores": self.scores[:, rows], "random": self.random[:, rows]})


def gather_scores(
    table: Table, contest: Contest, splits: tuple[str, ...], sha256: str, feature_std: Floats
) -> EvaluatedRows:
    """The rows of some splits.

    Args:
        table: All rows.
        contest: Their scores.
        splits: Which splits were evaluated.
        sha256: Of the artifact.
        feature_std: Of each selected neuron [K].
    """
    kept = np.array([row.split in splits for row in table.rows])
    rows = [row for row, is_kept in zip(table.rows, kept, strict=True) if is_kept]
    return EvaluatedRows(
        artifact_sha256=sha256,
        question_ids=np.array([row.question_id for row in rows]),
        splits=np.array([row.split for row in rows]),
        sources=np.array([row.source for row in rows]),
        labels=table.labels[kept],
        answer_tokens=table.signals["n_tokens"][kept].astype(np.int64),
        response_tokens=table.signals["response_n_tokens"][kept].astype(np.int64),
        methods=tuple(contest.scores),
        scores=np.stack([values[kept] for values in contest.scores.values()]),
        random=np.stack([values[kept] for values in contest.random]),
        risks=contest.risk.model.calibration.risks(contest.scores[SERVED][kept]),
        feature_std=feature_std,
    )


def save_scores(folder: Path, rows: EvaluatedRows) -> None:
    """Write `evaluation.npz`, whole or not at all."""
    partial = folder / f"{FILE}.partial"
    with partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{name: np.asarray(value) for name, value in vars(rows).items()})
    os.replace(partial, folder / FILE)


def load_scores(folder: Path, sha256: str) -> EvaluatedRows:
    """Read `evaluation.npz` of a run.

    Args:
        folder: Of the run.
        sha256: Of the artifact that the scores must be of.

    Raises:
        ValueError: There is none, it cannot be read, or it is another artifact's; says what to do.
    """
    again = "run train_probe.py on that folder again with a new --version; only its last stages will run"
    try:
        with np.load(folder / FILE, allow_pickle=False) as file:
            found: dict[str, Any] = dict(file)
        rows = EvaluatedRows(
            **{
                **found,
                "artifact_sha256": str(found["artifact_sha256"]),
                "methods": tuple(map(str, found["methods"])),
            }
        )
    except (OSError, BadZipFile, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{folder / FILE} gives no scores ({error}): {again}") from error
    if rows.artifact_sha256 != sha256:
        raise ValueError(f"{folder / FILE} holds the scores of another artifact: {again}")
    return rows
