"""Turns one row of a file or a Hugging Face data set into a `Question`, whatever its columns are called.

Known layouts: `{id, question, answers}` with answers a list or a string, TriviaQA (`answer: {value, aliases}`), nq_open
(`answer: [...]`), PopQA (`possible_answers`, a JSON list in a string, and `prop`), SQuAD-like `answers: {text: [...]}`.
It opens no file and draws no sample.
"""

import ast
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from offline.records import Question

QUESTION_COLUMNS = ("question", "problem", "query", "prompt")
ANSWER_COLUMNS = ("answers", "possible_answers", "answer", "correct_answers", "best_answer")
FALSE_ANSWER_COLUMN = "incorrect_answers"
ID_COLUMNS = ("id", "question_id", "qid")
GROUP_COLUMNS = ("relation", "prop", "category")


class QuestionError(ValueError):
    """A question source that cannot be read; the message names the place and the fix."""


def parse_row(row: object, where: str, source: str) -> Question:
    """Make a question of one row.

    Args:
        row: the decoded row.
        where: what an error calls the row, such as `questions.jsonl, line 3`.
        source: name of the question set; prefix of the question id.

    Returns:
        The question. Without an id column its id is a digest of the question text, which survives reordering.

    Raises:
        QuestionError: a field is missing or has the wrong type.
    """
    if not isinstance(row, Mapping):
        raise QuestionError(f"{where}: a row is a JSON object with id, question and answers, not {_type(row)}")
    column = _first(row, QUESTION_COLUMNS)
    if column is None:
        raise QuestionError(f"{where}: no `question`; give each row the question text under that name")
    text = row[column]
    if not isinstance(text, str) or not text.strip():
        raise QuestionError(
            f"{where}: `{column}` must be text that is not empty, not {_type(text)}; mend or drop the row"
        )
    return Question(
        question_id=f"{source}/{_read_id(row, text, where)}",
        question=text.strip(),
        answers=_read_answers(row, where),
        source=source,
        group=_read_group(row),
        false_answers=_read_list(row, FALSE_ANSWER_COLUMN, where) if row.get(FALSE_ANSWER_COLUMN) is not None else (),
    )


def is_judgeable(question: Question, row: object) -> bool:
    """Whether anything says what is right: no answers mean a made-up entity, unless the row says that it exists."""
    return bool(question.answers) or not (isinstance(row, Mapping) and row.get("entity_exists"))


def _type(value: object) -> str:
    return "null" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def _first(row: Mapping[str, Any], columns: tuple[str, ...]) -> str | None:
    return next((column for column in columns if row.get(column) is not None), None)


def _read_id(row: Mapping[str, Any], text: str, where: str) -> str:
    column = _first(row, ID_COLUMNS)
    if column is None:
        return hashlib.sha256(text.strip().encode()).hexdigest()[:16]
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise QuestionError(f"{where}: `{column}` must be text or a whole number, not {_type(value)}")
    return str(value).strip()


def _read_group(row: Mapping[str, Any]) -> str:
    column = _first(row, GROUP_COLUMNS)
    return str(row[column]).strip() if column else ""


def _read_answers(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    column = _first(row, ANSWER_COLUMNS)
    if column is None:
        raise QuestionError(
            f"{where}: no `answers`; give the accepted strings, or [] if the question is about something made up"
        )
    return _read_list(row, column, where)


def _read_list(row: Mapping[str, Any], column: str, where: str) -> tuple[str, ...]:
    values = _unpack(row[column], column, where)
    answers: dict[str, None] = {}
    for value in values:
        if not isinstance(value, str):
            raise QuestionError(
                f"{where}: `{column}` holds {_type(value)}; every accepted answer must be text, in quotes"
            )
        if value.strip():
            answers[value.strip()] = None
    if values and not answers:
        # Read as "no accepted answer" they would turn every response into a hallucination.
        raise QuestionError(f"{where}: `{column}` holds only blank text; give an answer, or [] if there is none")
    return tuple(answers)


def _unpack(value: object, column: str, where: str) -> list[object]:
    """Return the list of accepted answers inside a list, a text, a list written as text, or an object."""
    if isinstance(value, str):
        return _unpack_text(value, column, where)
    if isinstance(value, Mapping):
        if "text" in value:
            return _unpack(value["text"], column, where)
        parts = [value.get("value"), *(value.get("aliases") or ())]
        parts = [part for part in parts if part is not None]
        if parts:
            return parts
        raise QuestionError(
            f"{where}: `{column}` is an object without `value`, `aliases` or `text`; write a list of texts"
        )
    if isinstance(value, list | tuple):
        return list(value)
    raise QuestionError(f"{where}: `{column}` must be a list of texts or one text, not {_type(value)}")


def _unpack_text(value: str, column: str, where: str) -> list[object]:
    text = value.strip()
    if not text.startswith(("['", '["')) or not text.endswith("]"):
        return [value]
    # A list written as text. JSON first: reading JSON as a Python literal is what lost answers with apostrophes.
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(text)
        except (ValueError, SyntaxError):
            continue
        if isinstance(parsed, list):
            return parsed
    raise QuestionError(f"{where}: `{column}` looks like a list written as text but cannot be read; write a JSON list")
