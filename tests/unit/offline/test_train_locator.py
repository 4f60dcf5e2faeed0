"""The command that trains and judges a locator, over the tiny model."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from offline import metrics, train_locator
from offline.extraction.passages import Passage
from offline.locating.sentence_answers import SentenceAnswer
from offline.records import Question, Response
from probes.spans import AnswerSpan, token_offsets
from tests.reference.tiny_tokenizer import tiny_tokenizer
from tests.unit.offline.test_token_rows import Configured, make_probe
from tests.unit.offline.tiny_run import make_config


def make_answers(n=48):
    """Answers to one question with another name each, gold on the name."""
    tokenizer, answers = tiny_tokenizer(), []
    for at in range(n):
        text = f"The capital of France is {'Lima' if at % 2 else 'Tokyo'}."
        ids = tuple(tokenizer(text, add_special_tokens=False).input_ids)
        offsets = tuple(token_offsets(tokenizer, ids))
        first = next(k for k, (_, end) in enumerate(offsets) if end > text.rindex(" ") + 1)
        question = Question(f"s/{at}", "What is the capital of France?", ("Lima",), "s")
        gold = AnswerSpan(first, len(ids))
        verdict = "right" if at % 4 in (0, 1) else "wrong"
        split = "test" if at % 3 == 0 else "train"
        response = Response(question.question_id, 0, text, ids, "stop")
        answers.append(SentenceAnswer(question, response, offsets, split, f"k{at}", "sentence", verdict, gold, gold))
    return answers


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 5)
    monkeypatch.setattr(metrics.bootstrap, "__kwdefaults__", {"seed": 0, "resamples": 5})
    monkeypatch.setattr("offline.train_locator.Run", lambda config: Configured(make_config(config.out)))
    monkeypatch.setattr("offline.train_locator.ask_and_label", lambda _run: ([], [], [], [], ""))
    monkeypatch.setattr("offline.train_locator.load_artifact", lambda _: SimpleNamespace(probe=make_probe("own")))
    monkeypatch.setattr("offline.train_locator.candidate_layers", lambda n: tuple(range(n)))
    marked = [Passage("e/0", (5, 6), (40, 41, 42), (AnswerSpan(0, 2),))]
    monkeypatch.setattr("offline.train_locator.read_examples", lambda *_, **__: marked)

    def run(name, answers):
        monkeypatch.setattr("offline.train_locator.ask_sentences", lambda *_, **__: answers)
        work = tmp_path / name
        options = ["--work", str(work), "--probe", "x", "--examples", "x", "--out", str(tmp_path), "--questions", "x"]
        assert train_locator.main(options) == 0
        return json.loads((work / "locator.json").read_text()), np.load(work / "head.npz"), work

    return run


def test_held_out_rows_are_judged_and_kept(train):
    answers = make_answers()
    result, _, work = train("first", answers)
    rows = [json.loads(line) for line in (work / "located.jsonl").read_text().splitlines()]
    held_out = [answer for answer in answers if answer.split == "test"]
    assert [row["question_id"] for row in rows] == [answer.question.question_id for answer in held_out]
    assert result["tables"]["all"]["responses"] == len(held_out)
    assert result["training_responses"] == len(answers) - len(held_out)
    assert result["tables"]["all"]["tokens"]["gold"]["f1"][0] == 1
    assert set(result["grids"]) == {"sentence answers", "sentence answers and marked examples"}


def test_hazard_held_out_labels_reach_the_head_or_its_cuts(train):
    answers = make_answers()
    spoilt = [
        SentenceAnswer(a.question, a.response, a.offsets, a.split, a.key, a.style, "wrong", AnswerSpan(0, 1), None)
        if a.split == "test"
        else a
        for a in answers
    ]
    (first, head, _), (second, other, _) = train("first", answers), train("second", spoilt)
    assert (head["weights"] == other["weights"]).all()
    assert first["cuts"] == second["cuts"]
    assert first["grids"] == second["grids"]
    assert first["tables"] != second["tables"]


def test_errors_a_user_can_mend_are_one_line_and_code_2(tmp_path, caplog):
    options = ["--work", str(tmp_path / "w"), "--probe", str(tmp_path / "none"), "--examples", "x"]
    assert train_locator.main([*options, "--out", str(tmp_path), "--questions", "x"]) == 2
    assert caplog.records[-1].getMessage().startswith("error: ")
    assert "\n" not in caplog.records[-1].getMessage()
