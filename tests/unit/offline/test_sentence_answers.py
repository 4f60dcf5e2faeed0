"""Sentence answers: which questions are asked how, and where their gold spans stand."""

import pytest

from offline.locating.sentence_answers import DETAIL, SENTENCE, ask_sentences, choose_neutrally
from offline.records import LabelledResponse, Question, Response
from tests.unit.offline import tiny_run
from tests.unit.offline.tiny_run import TinyRun, make_config


def make_row(key, split):
    return LabelledResponse(key, 0, "faithful", split, "s", "", None, f"answer of {key}")


def choose(question, text, word):
    starts = [at for at in range(len(text)) if text.startswith(word, at)]
    spans = [(at, at + len(word)) for at in starts]
    return spans.index(choose_neutrally(Question("s/1", question, (), "s"), text, spans))


def test_the_echo_of_the_question_is_not_gold():
    assert choose("What is the capital of Singapore?", "The capital of Singapore is Singapore.", "Singapore") == 1


def test_hazard_gold_follows_the_lexical_locator():
    # The locator's claim of the second sentence is Bonn; the first occurrence stands all the same.
    assert choose("Where was Beethoven born?", "Bonn, of course, or so I think. He was born in Bonn.", "Bonn") == 0


class Answering(TinyRun):
    """Answers from a table, and keeps what was asked."""

    def __init__(self, config, answers, log):
        super().__init__(config)
        self.answers, self.log = answers, log

    def sampler(self, *, sentences=None):
        return self

    def draw(self, jobs, params):
        for job in jobs:
            self.log.append((job.question.question_id, job.question.question, self.config.max_tokens))
            text = self.answers[job.question.question_id]
            ids = tuple(self.tokenizer(text, add_special_tokens=False).input_ids)
            yield [Response(job.question.question_id, 0, text, ids, "stop")]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    log = []
    answers = {
        "s/right": "The capital of France is Paris.",
        "s/wrong": "The capital of France is Lima.",
        "s/other": "The capital of France is Tokyo.",
        "s/refusal": "I am not sure about Lima.",
        "s/echo": "France is a storm.",
    }
    monkeypatch.setattr("offline.locating.sentence_answers.Run", lambda config: Answering(config, answers, log))
    questions = [Question(key, "What is the capital of France?", ("Paris",), "s") for key in answers]
    labels = [make_row("s/right", "test"), make_row("s/right", "unfiltered-test"), make_row("s/wrong", "train")]
    labels += [make_row("s/other", "unfiltered-calibration"), make_row("s/refusal", "calibration")]
    labels.append(make_row("s/echo", "unfiltered-test"))
    short = [Response(key, 0, "France" if key == "s/echo" else "Lima", (1,), "stop") for key in answers]
    run = TinyRun(make_config(tmp_path))
    found = ask_sentences(run, labels, questions, short, unfiltered=5, details=1)
    return run, labels, questions, short, log, {(row.question.question_id, row.style): row for row in found}


def marked(row, span):
    return row.response.text[row.offsets[span.start][0] : row.offsets[span.end - 1][1]].strip(" .")


def test_gold_is_the_alias_of_a_right_answer_and_the_short_answer_of_a_wrong_one(asked):
    rows = asked[-1]
    right, wrong = rows["s/right", "sentence"], rows["s/wrong", "sentence"]
    assert (right.verdict, wrong.verdict) == ("right", "wrong")
    assert marked(right, right.gold) == "Paris"
    assert right.short is None
    assert marked(wrong, wrong.gold) == marked(wrong, wrong.short) == "Lima"


def test_hazard_refusals_echoes_and_answers_that_changed_have_a_gold_span(asked):
    rows = asked[-1]
    assert rows["s/echo", "sentence"].verdict == "wrong"
    assert rows["s/echo", "sentence"].gold is None
    assert rows["s/other", "sentence"].gold is None
    assert rows["s/refusal", "sentence"].verdict == "refusal"
    assert rows["s/refusal", "sentence"].gold is None


def test_hazard_a_calibration_question_is_held_out_or_a_question_is_asked_twice(asked):
    log, rows = asked[-2], asked[-1]
    assert {key: row.split for (key, style), row in rows.items() if style == "sentence"} == {
        "s/right": "test",
        "s/wrong": "train",
        "s/other": "train",
        "s/refusal": "train",
        "s/echo": "test",
    }
    assert len(log) == 7  # five sentences; one answer in detail a split
    assert sum(text.endswith(DETAIL.suffix) for _, text, _ in log) == 2
    assert {tokens for _, text, tokens in log if text.endswith(DETAIL.suffix)} == {DETAIL.max_tokens}
    assert {tokens for _, text, tokens in log if not text.endswith(DETAIL.suffix)} == {SENTENCE.max_tokens}


def test_asking_again_reads_the_stage(asked):
    run, labels, questions, short, log, rows = asked
    again = ask_sentences(run, labels, questions, short, unfiltered=5, details=1)
    assert len(log) == 7
    assert {(row.question.question_id, row.style): row for row in again} == rows


def test_the_tiny_model_answers_through_the_real_sampler(tmp_path, monkeypatch):
    monkeypatch.setattr("offline.locating.sentence_answers.Run", TinyRun)
    questions = tiny_run.make_questions(6)
    labels = [make_row(q.question_id, "train" if at % 2 else "test") for at, q in enumerate(questions)]
    short = [Response(q.question_id, 0, "Lima", (1,), "stop") for q in questions]
    found = ask_sentences(TinyRun(make_config(tmp_path)), labels, questions, short, unfiltered=0, details=0)
    assert all(row.offsets[-1][1] == len(row.response.text) for row in found)
    assert {row.style for row in found} == {"sentence"}
