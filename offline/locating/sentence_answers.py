"""Sentence answers: the labelled questions of a finished run, asked again without "answer only", with gold spans.

Some are asked for detail too, so that there are long answers. The gold span of a right answer is where an accepted
answer stands, that of a wrong one where the model's own answer-only response stands again; other responses have none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from offline.labels.judge import find_answer, judge_alias
from offline.labels.normalise import find_phrase, split_words
from offline.labels.spans import CharSpan
from offline.records import LabelledResponse, Question, Response, Verdict
from offline.run import Run
from offline.sampling.asking import ask_greedy
from offline.stages import Stage, fingerprint
from probes.claims import find_claims
from probes.spans import AnswerSpan, Offset, char_span_to_tokens, token_offsets


@dataclass(frozen=True, slots=True)
class Style:
    """A way to ask."""

    name: str
    """Of the stage."""
    suffix: str
    """Behind the question."""
    max_tokens: int


SENTENCE = Style("sentence", "", 64)
DETAIL = Style("detail", " Explain in detail.", 256)


@dataclass(frozen=True)
class SentenceAnswer:
    """A response in sentences with what is known of it."""

    question: Question
    """As it was asked, suffix included."""
    response: Response
    offsets: tuple[Offset, ...]
    """Where each token stands in the text [T]."""
    split: str
    """`train` or `test`."""
    key: str
    """The normalised first answer: what folds are disjoint by."""
    style: str
    verdict: Verdict
    gold: AnswerSpan | None
    """The accepted answer in a right response, the model's own short answer in a wrong one."""
    short: AnswerSpan | None
    """The model's own short answer, whatever the verdict: marked alike in both classes."""


def ask_sentences(
    run: Run,
    labels: Sequence[LabelledResponse],
    questions: Sequence[Question],
    greedy: Sequence[Response],
    *,
    unfiltered: int,
    details: int,
) -> list[SentenceAnswer]:
    """Ask, judge by alias and mark the gold spans; answers are kept as stages of the run's folder.

    Args:
        run: Where the answers are kept; not the folder of the finished run.
        labels: Of the finished run. Its training and calibration questions are asked for training.
        questions: All questions of it.
        greedy: Its answer-only answers.
        unfiltered: Most questions without a filtered row in each split.
        details: Most filtered questions that are asked for detail too, in each split.
    """
    by_id = {question.question_id: question for question in questions}
    short = {row.question_id: row.text for row in greedy}
    picked = _pick(labels, unfiltered=unfiltered, details=details, seed=run.config.seed)
    answers = []
    for style, rows in picked.items():
        asked = [_ask_as(style, by_id[row.question_id]) for row in rows]
        answered = {response.question_id: response for response in _answer(run, style, asked)}
        for row, question in zip(rows, asked, strict=True):
            response = answered[row.question_id]
            if response.token_ids:
                mark = partial(_mark, run.tokenizer, style, row)
                answers.append(mark(question, by_id[row.question_id], short[row.question_id], response))
    return answers


def _pick(
    labels: Sequence[LabelledResponse], *, unfiltered: int, details: int, seed: int
) -> Mapping[Style, list[LabelledResponse]]:
    """One row a question, filtered ones first, each split in drawn order."""
    picked: dict[Style, list[LabelledResponse]] = {SENTENCE: [], DETAIL: []}
    for split in ("train", "test"):
        rows = {row.question_id: row for row in labels if _split_of(row) == split and _is_filtered(row)}
        drawn = sorted(rows.values(), key=lambda row: fingerprint([seed, row.question_id]))
        more = {row.question_id: row for row in labels if _split_of(row) == split and row.question_id not in rows}
        rest = sorted(more.values(), key=lambda row: fingerprint([seed, row.question_id]))
        picked[SENTENCE] += drawn + rest[:unfiltered]
        picked[DETAIL] += drawn[:details]
    return picked


def _split_of(row: LabelledResponse) -> str:
    return "test" if row.split.endswith("test") else "train"


def _is_filtered(row: LabelledResponse) -> bool:
    return not row.split.startswith("unfiltered")


def _ask_as(style: Style, question: Question) -> Question:
    return replace(question, question=question.question + style.suffix)


def _answer(run: Run, style: Style, questions: Sequence[Question]) -> Iterator[Response]:
    settings: dict[str, Any] = {
        **run.sampling_settings,
        "sentences": True,
        "suffix": style.suffix,
        "max_tokens": style.max_tokens,
        "questions": fingerprint([question.question_id for question in questions]),
    }
    stage: Stage[Response] = Stage(run.out, style.name, Response, settings)
    if not stage.is_complete:
        asking = Run(replace(run.config, max_tokens=style.max_tokens))
        ask_greedy(stage, questions, asking.sampler(sentences=True))
    return stage.rows()


def _mark(
    tokenizer: Any,
    style: Style,
    row: LabelledResponse,
    asked: Question,
    question: Question,
    short: str,
    response: Response,
) -> SentenceAnswer:
    verdict = judge_alias(question, response.text)[0]
    offsets = token_offsets(tokenizer, response.token_ids)
    again = _find_again(question, short, response.text)
    found = find_answer(question, response.text) if verdict == "right" else None
    gold = choose_neutrally(question, response.text, found[1]) if found else again if verdict == "wrong" else None
    return SentenceAnswer(
        question=asked,
        response=response,
        offsets=tuple(offsets),
        split=_split_of(row),
        key=row.answers_key,
        style=style.name,
        verdict=verdict,
        gold=char_span_to_tokens(offsets, *gold) if gold else None,
        short=char_span_to_tokens(offsets, *again) if again else None,
    )


def _find_again(question: Question, short: str, text: str) -> CharSpan | None:
    core = next(iter(find_claims(question.question, short)), None)
    if core is None or find_phrase(question.question, short[slice(*core)]):
        return None  # what the question says itself, the sentence repeats without claiming it
    return choose_neutrally(question, text, find_phrase(text, short[slice(*core)]))


def choose_neutrally(question: Question, text: str, spans: Sequence[CharSpan]) -> CharSpan | None:
    """The first occurrence that does not follow the word that it follows in the question, else the first.

    Unlike `label_spans.choose_occurrence` it does not ask the lexical locator, which is judged by what is chosen here.
    """
    asked = f" {' '.join(word.key for word in split_words(question.question))} "

    def is_echo(span: CharSpan) -> bool:
        before = [word.key for word in split_words(text[: span[0]])][-1:]
        inside = [word.key for word in split_words(text[span[0] : span[1]])]
        return bool(before) and f" {' '.join(before + inside)} " in asked

    return min(spans, key=is_echo, default=None)
