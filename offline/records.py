"""The row types that the offline stages read and write, one frozen dataclass each.

A row is one JSON line. `question_id` is unique over all sources (`<source>/<id>`); `sample` is 0 for the
greedy answer and 1..n for the temperature samples, so (`question_id`, `sample`) names a response.
Nothing here reads files or knows a model; see `offline.stages` for how rows are kept.
"""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]
Verdict = Literal["right", "wrong", "refusal", "unjudged"]
"""What a judge says of one response; `unjudged` is counted, never guessed."""

Label = Literal["faithful", "hallucinated"]


DOMAIN = "domain"
"""The split of rows that nothing but the evaluation by domain sees."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its accepted answers."""

    question_id: str
    """`<source>/<id>`, unique over the run."""
    question: str
    answers: tuple[str, ...]
    """Accepted strings; empty means that every concrete answer is a hallucination (a made-up entity)."""
    source: str
    """The question set; labels are balanced within it."""
    group: str = ""
    """The relation inside the source (world facts), or ""; labels are balanced within it too."""
    false_answers: tuple[str, ...] = ()
    """Known wrong answers, where the set lists them (TruthfulQA); `offline.labels.judge_contrast` judges by both
    lists."""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer of the model to one question."""

    question_id: str
    sample: int
    """0 = greedy; 1..n = temperature samples."""
    text: str
    token_ids: tuple[int, ...]
    """Response tokens without the end-of-sequence token."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's verdict on one response."""

    question_id: str
    sample: int
    verdict: Verdict
    judge: str
    """`alias`, or `openai:<model>`."""
    matched: str | None = None
    """The accepted answer that was found, as it is written in `Question.answers`."""
    reason: str | None = None
    """Why it is `unjudged`."""


@dataclass(frozen=True, slots=True)
class LabelledResponse:
    """A response that passed the consistency filter (or the unfiltered draw) with its label."""

    question_id: str
    sample: int
    label: Label
    split: str
    """`train`, `calibration`, `test` (filtered), `unfiltered-calibration`, `unfiltered-test`, or `domain`."""
    source: str
    group: str
    agreement: float | None
    """Share of the temperature samples with the same verdict, in [0, 1]; None in an unfiltered row."""
    answers_key: str
    """The normalised first answer: what answer-disjoint splits are made by."""


@dataclass(frozen=True, slots=True)
class SpanRow:
    """The answer tokens of one response: half-open token range [start, end) of that response."""

    question_id: str
    sample: int
    token_start: int
    token_end: int
    method: str
    """Which locator or labeller found it."""
