"""Marked responses of other models, cut into the tokens of the model at hand."""

import gzip
import json

from offline.locating.marked_examples import question_key, read_examples
from tests.reference.tiny_tokenizer import tiny_tokenizer


def make_row(response, marked, *, question="Capital of France?", label="faithful", **changes):
    row = {"id": response, "question": question, "prompt": f"{question} Only.", "response": response}
    return {**row, "answer_tokens": marked, "label": label, **changes}


def read(tmp_path, rows, **options):
    path = tmp_path / "train.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    return read_examples(path, tiny_tokenizer(), **{"limit": 9, "without": (), **options})


def cut(passage):
    ids = [token for token, inside in zip(passage.response_ids, passage.answer.tolist(), strict=True) if inside]
    return tiny_tokenizer().decode(ids).strip(" .")


def test_marked_pieces_of_both_vocabularies_become_own_tokens(tmp_path):
    rows = [make_row("The storm of Lima.\n\n", ["\u2581Lima"]), make_row("gold storm year", ["gold", "\u0120storm"])]
    found = read(tmp_path, rows)
    assert [cut(passage) for passage in found] == ["Lima", "gold storm"]
    assert tiny_tokenizer().decode(found[0].response_ids) == "The storm of Lima."
    assert "Only." in tiny_tokenizer().decode(found[0].prompt_ids)


def test_hazard_rows_whose_mark_is_in_doubt_or_whose_question_is_asked_elsewhere(tmp_path):
    rows = [
        make_row("Lima or Lima", ["\u2581Lima"]),
        make_row("Tokyo", []),
        make_row("Peru", ["Peru"], label=None),
        make_row("year", ["year"], question="Who wrote the novel?"),
        make_row("storm", ["storm"]),
        make_row("gold", ["gold"]),
    ]
    found = read(tmp_path, rows, limit=1, without={question_key("who wrote the Novel")})
    assert [passage.key for passage in found] == ["storm"]
