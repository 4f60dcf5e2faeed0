"""Loads questions from files, Hugging Face data sets and generators, and draws a stable sample of each source.

A source is named by a spec, optionally with a name in front (`name=spec`):

    path/to/questions.jsonl            also .jsonl.gz and .parquet
    hf:owner/name[:config][:split]     downloads; needs the `datasets` package
    builtin:world, builtin:madeup      generated, no files

It judges nothing; which questions the alias judge cannot judge is `offline.labels.judge.split_judgeable`.
"""

import gzip
import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from offline.questions.madeup import make_madeup_questions
from offline.questions.rows import QuestionError, is_judgeable, parse_row
from offline.questions.world import make_world_questions
from offline.records import Question

SPLIT_NAMES = frozenset({"train", "training", "validation", "valid", "val", "dev", "test", "eval", "evaluation", "all"})
"""File stems that say which split a file is, not which set; the set is then named by the folder."""

_SUFFIXES = (".jsonl.gz", ".jsonl", ".parquet")


def load_questions(specs: Sequence[str], *, limit: int | None, seed: int) -> list[Question]:
    """Load the questions of every source.

    Args:
        specs: what to load, see the module; specs with the same source name are one source.
        limit: most questions a source, or None for all. The draw depends on the seed and the question ids only, so
            raising the limit keeps the questions that were drawn before.
        seed: of the draw and of the made-up entities.

    Returns:
        The questions, source by source in the order of `specs`, in drawn order within a source.

    Raises:
        QuestionError: a source cannot be read, a row is bad, or an id comes twice; the message names place and fix.
    """
    if limit is not None and limit < 1:
        raise QuestionError(f"the limit is {limit}; it must be at least 1, or left out for all questions")
    sources: dict[str, dict[str, tuple[str, Question]]] = {}
    for spec in specs:
        name, target = split_spec(spec)
        for where, question in _read_source(name, target, seed):
            rows = sources.setdefault(question.source, {})
            if question.question_id in rows:
                raise QuestionError(
                    f"{where}: the id {question.question_id!r} is also at {rows[question.question_id][0]}; "
                    "make ids unique, or name the sources apart with `name=path`"
                )
            rows[question.question_id] = (where, question)
    return [question for rows in sources.values() for question in _draw([q for _, q in rows.values()], limit, seed)]


def split_spec(spec: str) -> tuple[str, str]:
    """Split a spec into the source's name and what to read.

    Args:
        spec: `[name=]target`.

    Returns:
        The name (the given one; else the file's stem or, if that only names a split, its folder; else the last part of
        the data set id or the generator's name) and the target.
    """
    name, equals, target = spec.partition("=")
    if equals and name.strip() and not set(name) & set("/\\:"):
        return name.strip(), target
    if spec.startswith("builtin:"):
        return spec.removeprefix("builtin:"), spec
    if spec.startswith("hf:"):
        return spec.removeprefix("hf:").split(":")[0].rsplit("/", 1)[-1], spec
    path = Path(spec)
    stem = path.name
    for suffix in _SUFFIXES:
        stem = stem.removesuffix(suffix)
    return (path.resolve().parent.name if stem.lower() in SPLIT_NAMES else stem), spec


def _draw(questions: list[Question], limit: int | None, seed: int) -> list[Question]:
    """Return the first `limit` questions in an order that depends on the seed and each question's own id only."""

    def key(question: Question) -> bytes:
        return hashlib.sha256(f"{seed}/{question.question_id}".encode()).digest()

    return sorted(questions, key=key)[:limit]


def _read_source(name: str, target: str, seed: int) -> Iterator[tuple[str, Question]]:
    if target.startswith("builtin:"):
        generators: dict[str, Callable[[str, int], Iterable[Question]]] = {
            "world": lambda source, _: make_world_questions(source),
            "madeup": make_madeup_questions,
        }
        generator = generators.get(target.removeprefix("builtin:"))
        if generator is None:
            raise QuestionError(
                f"{target}: no such generator; there are {', '.join(f'builtin:{g}' for g in generators)}"
            )
        for index, question in enumerate(generator(name, seed), start=1):
            yield f"{target}, question {index}", question
        return
    rows = _read_dataset(target) if target.startswith("hf:") else _read_file(Path(target))
    is_empty = True
    for where, row in rows:
        is_empty = False
        question = parse_row(row, where, name)
        if is_judgeable(question, row):
            yield where, question
    if is_empty:
        raise QuestionError(f"{target}: no rows")


def _read_file(path: Path) -> Iterator[tuple[str, object]]:
    if not path.is_file():
        raise QuestionError(f"{path}: no such file; give a {', '.join(_SUFFIXES)} file, hf:owner/name or builtin:world")
    if path.name.endswith(".parquet"):
        yield from _read_parquet(path)
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _read_jsonl(path)
    else:
        raise QuestionError(f"{path}: unknown kind of file; convert it to one of {', '.join(_SUFFIXES)}")


def _read_jsonl(path: Path) -> Iterator[tuple[str, object]]:
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}, line {number}", json.loads(line)
    except json.JSONDecodeError as error:
        raise QuestionError(f"{path}, line {number}: not JSON ({error}); write one JSON object a line") from error
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise QuestionError(
            f"{path}, after line {number}: {error}; the file is damaged or is not UTF-8, copy it anew"
        ) from error


def _read_parquet(path: Path) -> Iterator[tuple[str, object]]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise QuestionError(
            f"{path}: reading parquet needs pyarrow; `pip install pyarrow` or convert to .jsonl"
        ) from error
    try:
        table = parquet.read_table(path)
    except arrow.ArrowInvalid as error:
        raise QuestionError(f"{path}: not a parquet file ({error}); copy it anew") from error
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{path}, row {number}", row


def _read_dataset(target: str) -> Iterator[tuple[str, object]]:
    """Read `hf:owner/name[:config][:split]`; a single part after the name is a split if it is called like one."""
    name, *parts = target.removeprefix("hf:").split(":")
    if len(parts) > 2 or not name:
        raise QuestionError(f"{target}: write hf:owner/name, with :config and :split where they are needed")
    split = parts.pop() if len(parts) == 2 or (parts and parts[0].split("[")[0] in SPLIT_NAMES) else None
    config = parts[0] or None if parts else None
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise QuestionError(f"{target}: needs the datasets package; `pip install 'hguard[offline]'`") from error
    try:
        if split is None:
            offered = datasets.get_dataset_split_names(name, config)
            split = next((wanted for wanted in ("train", "validation", "test") if wanted in offered), offered[0])
        rows = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the client lets errors of whichever HTTP library it uses through
        raise QuestionError(
            f"{target}: cannot be loaded ({type(error).__name__}: {error}); check the name, config and split and the "
            "network, or download it elsewhere and pass the .parquet or .jsonl file"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{target}, {split} row {number}", row
