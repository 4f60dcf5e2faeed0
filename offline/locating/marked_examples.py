"""Marked examples: other models' answer-only responses whose answer the authors of the paper marked, read again here.

A row of h_neurons_examples has the response as text and as the pieces of its model's tokenizer, some of them marked.
The text is cut into the tokens of the model at hand; the marked pieces become a range of them.
"""

import gzip
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from offline.extraction.passages import Passage
from offline.labels.normalise import split_words
from probes.prompts import encode_prompt
from probes.spans import char_span_to_tokens, token_offsets


def read_examples(path: Path, tokenizer: Any, *, limit: int, without: Collection[str]) -> list[Passage]:
    """The first rows with a mark that stands once in the text.

    Args:
        path: h_neurons_examples/<split>.jsonl.gz.
        tokenizer: Of the model that reads them.
        limit: Most rows.
        without: Questions to leave out, as `question_key` writes them.
    """
    passages: list[Passage] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if len(passages) == limit:
                break
            if not row["label"] or not row["answer_tokens"] or question_key(row["question"]) in without:
                continue
            text = row["response"].strip()
            marked = "".join(row["answer_tokens"]).replace("\u2581", " ").replace("\u0120", " ").strip()
            if not marked or text.count(marked) != 1:
                continue
            ids = tokenizer(text, add_special_tokens=False).input_ids
            start = text.index(marked)
            span = char_span_to_tokens(token_offsets(tokenizer, ids), start, start + len(marked))
            if span is not None:
                passages.append(Passage(row["id"], tuple(encode_prompt(tokenizer, row["prompt"])), tuple(ids), (span,)))
    return passages


def question_key(question: str) -> str:
    """What questions are compared by."""
    return " ".join(word.key for word in split_words(question))
