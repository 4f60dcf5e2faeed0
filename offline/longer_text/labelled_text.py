"""Labelled texts: answers that other models wrote, in which people marked what is hallucinated.

    helm_sentences      continued passages, each sentence marked          -> sentences
    halueval_general    answers to requests, marked as a whole            -> responses
    ragtruth_llama2_7b  answers from a source, hallucinated ranges marked -> sentences and tokens that touch one

Knows no tokenizer and no score.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from probes.claims import split_sentences
from probes.spans import Offset

UnitKind = Literal["sentence", "response", "token"]

NO_SOURCE = "Write a short text."
"""User turn of ragtruth_llama2_7b, whose rows have neither source nor request: its marks (not in the source, or against
it) are about something that the scoring model does not see."""


@dataclass(frozen=True, slots=True)
class LabelledRange:
    """Code points [start, end) of a response; label 1 = hallucinated."""

    start: int
    end: int
    label: int


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A response with its marks."""

    source: str
    """Name of the set."""
    text_id: str
    document: str
    """What is resampled as a whole: the texts of several models about one passage are one document."""
    prompt: str
    response: str
    kind: UnitKind
    """Of `units`."""
    units: tuple[LabelledRange, ...]
    marked: tuple[Offset, ...] | None = None
    """Hallucinated ranges; None where only `units` are marked."""


def read_labelled(folder: Path, source: str, *, limit: int | None = None) -> list[LabelledText]:
    """Read one set.

    Args:
        folder: Holds `<source>/test.jsonl.gz`.
        source: A key of `READERS`.
        limit: Most texts, or None for all. The draw depends on the ids only, and a larger one holds the smaller one.

    Raises:
        FileNotFoundError: The set is not there.
    """
    path = set_path(folder, source)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: give the folder that holds {source}/ as --data")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [READERS[source](json.loads(line)) for line in lines]
    return sorted(texts, key=lambda text: hash_of(text.text_id))[:limit]


def set_path(folder: Path, source: str) -> Path:
    """Where a set lies."""
    return folder / source / "test.jsonl.gz"


def hash_of(name: str) -> str:
    """An order of names that says nothing of them."""
    return hashlib.sha256(name.encode()).hexdigest()


def _read_helm(row: dict[str, Any]) -> LabelledText:
    """The marked sentences, joined by spaces as the set has them one by one."""
    sentences = [sentence["sentence"] for sentence in row["sentences"]]
    ends = list(_running_ends(sentences))
    units = (
        LabelledRange(end - len(sentence["sentence"]), end, sentence["label"])
        for sentence, end in zip(row["sentences"], ends, strict=True)
    )
    return LabelledText(
        "helm_sentences",
        row["id"],
        f"passage {row['passage_id']}",
        row["question"],
        " ".join(sentences),
        "sentence",
        tuple(units),
    )


def _running_ends(sentences: list[str]) -> Iterator[int]:
    at = 0
    for sentence in sentences:
        yield at + len(sentence)
        at += len(sentence) + 1


def _read_halueval(row: dict[str, Any]) -> LabelledText:
    whole = LabelledRange(0, len(row["response"]), int(row["hallucination"]))
    return LabelledText(
        "halueval_general", row["id"], row["id"], row["question"], row["response"], "response", (whole,)
    )


def _read_ragtruth(row: dict[str, Any]) -> LabelledText:
    marked = tuple((span["start"], span["end"]) for span in row["spans"])
    units = (
        LabelledRange(start, end, int(is_marked(start, end, marked))) for start, end in split_sentences(row["response"])
    )
    return LabelledText(
        "ragtruth_llama2_7b",
        row["id"],
        row["source_id"],
        NO_SOURCE,
        row["response"],
        "sentence",
        tuple(units),
        marked,
    )


def is_marked(start: int, end: int, marked: tuple[Offset, ...]) -> bool:
    """Whether [start, end) shares a code point with a marked range."""
    return any(start < last and first < end for first, last in marked)


READERS: dict[str, Callable[[dict[str, Any]], LabelledText]] = {
    "helm_sentences": _read_helm,
    "halueval_general": _read_halueval,
    "ragtruth_llama2_7b": _read_ragtruth,
}
"""How a row of each set is read."""
