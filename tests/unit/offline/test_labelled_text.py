"""Labels of longer text: each mark lands on its own characters, whatever stands beside it."""

import gzip
import json

import pytest

from offline.longer_text.labelled_text import READERS, is_marked, read_labelled

HELM = {
    "id": "helm-a-1",
    "question": "About X.",
    "passage_id": "1",
    "sentences": [{"sentence": "Née in Köln.", "label": 1}, {"sentence": "It is old.", "label": 0}],
}
RAGTRUTH_TEXT = "First is fine. Second is false. Third is fine.\nFourth is false."


def write_set(folder, source, rows):
    (folder / source).mkdir()
    with gzip.open(folder / source / "test.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def ragtruth_row(*spans):
    spans = [{"start": start, "end": end} for start, end in spans]
    return {"id": "r1", "source_id": "15", "response": RAGTRUTH_TEXT, "spans": spans}


def labels_of(text):
    return {text.response[unit.start : unit.end]: unit.label for unit in text.units}


def test_joined_sentences_keep_their_own_labels_also_after_letters_of_several_bytes():
    text = READERS["helm_sentences"](HELM)
    assert labels_of(text) == {"Née in Köln.": 1, "It is old.": 0}


def test_a_mark_does_not_label_the_sentence_that_it_only_touches():
    start = RAGTRUTH_TEXT.index("Second")
    text = READERS["ragtruth_llama2_7b"](ragtruth_row((start, RAGTRUTH_TEXT.index(" Third"))))
    assert [unit.label for unit in text.units] == [0, 1, 0, 0]


def test_a_mark_over_two_sentences_labels_both():
    text = READERS["ragtruth_llama2_7b"](
        ragtruth_row((RAGTRUTH_TEXT.index("false"), RAGTRUTH_TEXT.index("is fine.\n")))
    )
    assert [unit.label for unit in text.units] == [0, 1, 1, 0]
    assert is_marked(35, 36, text.marked)
    assert not is_marked(0, text.marked[0][0], text.marked)


def test_texts_about_one_passage_are_one_document_whoever_wrote_them():
    other = READERS["helm_sentences"](HELM | {"id": "helm-b-1"})
    assert other.document == READERS["helm_sentences"](HELM).document
    assert other.text_id != READERS["helm_sentences"](HELM).text_id


def test_a_larger_limit_keeps_the_texts_that_are_scored_already(tmp_path):
    rows = [{"id": f"h{at}", "question": "?", "response": "No.", "hallucination": at % 2 == 0} for at in range(30)]
    write_set(tmp_path, "halueval_general", rows)
    few, many, every = (read_labelled(tmp_path, "halueval_general", limit=limit) for limit in (7, 20, None))
    assert (many[:7], every[:20], len(every)) == (few, many, 30)
    assert [text.text_id for text in few] != [row["id"] for row in rows[:7]]


def test_a_missing_set_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="helm_sentences/ as --data"):
        read_labelled(tmp_path, "helm_sentences")
