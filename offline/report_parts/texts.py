"""The texts of a finished run, read without its settings: questions, greedy answers, verdicts, spans."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from offline.records import Judgement, Question, Response, SpanRow
from probes.spans import AnswerSpan

R = TypeVar("R")


@dataclass(frozen=True)
class Texts:
    """What was asked and said."""

    questions: dict[str, Question]
    greedy: dict[str, Response]
    verdicts: list[Judgement]
    """Of greedy answers and samples."""
    spans: dict[str, tuple[AnswerSpan, ...]]
    """Of the greedy answers that became rows."""
    is_sentences: bool
    """Whether the questions were asked without "answer only"."""


def read_texts(folder: Path) -> Texts:
    """Read a run's folder.

    Raises:
        ValueError: A stage's file is missing or damaged; names it.
    """
    spans: dict[str, list[AnswerSpan]] = defaultdict(list)
    for row in _rows(folder, "spans", SpanRow):
        spans[row.question_id].append(AnswerSpan(row.token_start, row.token_end))
    return Texts(
        questions={row.question_id: row for row in _rows(folder, "questions", Question)},
        greedy={row.question_id: row for row in _rows(folder, "greedy", Response)},
        verdicts=_rows(folder, "verdicts", Judgement),
        spans={key: tuple(found) for key, found in spans.items()},
        is_sentences=bool(json.loads((folder / "greedy.settings.json").read_text())["sentences"]),
    )


def _rows(folder: Path, stage: str, make: Callable[..., R]) -> list[R]:
    path = folder / f"{stage}.jsonl"
    try:
        with path.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        return [make(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}) for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as a stage of a complete run: {error}") from error
