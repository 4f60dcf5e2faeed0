"""Which answers a judge other than alias is asked about, and which rows the unfiltered splits are drawn from."""

from offline import refresh
from offline.records import Judgement, Question, Response
from tests.reference.tiny_tokenizer import tiny_tokenizer
from tests.unit.offline.tiny_run import TinyRun, make_config


class FakeJudge:
    """Finds every answer right, and remembers what it was paid for."""

    asked: list[tuple[str, int]] = []  # noqa: RUF012

    def __init__(self, *_):
        """Like the real one."""

    def judge_all(self, pairs):
        self.asked += [(question.question_id, response.sample) for question, response in pairs]
        return [Judgement(q.question_id, r.sample, "right", "openai:gpt") for q, r in pairs]


def judge_with_endpoint(tmp_path, monkeypatch, *, unfiltered):
    questions = [Question(f"s/{i}", f"what is {i}?", (f"answer {i}",), "s") for i in range(200)]
    greedy = [Response(q.question_id, 0, "Paris", (5,), "stop") for q in questions]
    samples = [Response("s/0", s, "Paris", (5,), "stop") for s in range(1, 11)]
    samples += [Response("s/1", s, "Paris", (5,), "stop") for s in range(1, 6)]  # left early
    monkeypatch.setattr(refresh, "OpenAIJudge", FakeJudge)
    FakeJudge.asked = []
    run = TinyRun(make_config(tmp_path / "run", samples=10, judge="gpt", endpoint="http://x", unfiltered=unfiltered))
    verdicts, made = refresh.judge(run, questions, greedy, samples, "upstream")
    return run, questions, verdicts, made


def test_a_paid_judge_is_asked_only_about_what_can_become_a_row(tmp_path, monkeypatch):
    run, questions, *_ = judge_with_endpoint(tmp_path, monkeypatch, unfiltered=5)
    fair = {q.question_id for q in refresh.unfiltered_candidates(run, questions)}
    assert len(fair) == 20
    expected = {(key, 0) for key in fair | {"s/0"}} | {("s/0", s) for s in range(1, 11)}
    assert set(FakeJudge.asked) == expected
    assert len(FakeJudge.asked) == len(expected)


def test_unfiltered_rows_come_from_the_fair_draw_and_not_from_what_was_sampled_again(tmp_path, monkeypatch):
    run, questions, verdicts, made = judge_with_endpoint(tmp_path, monkeypatch, unfiltered=5)
    fair = {q.question_id for q in refresh.unfiltered_candidates(run, questions)}
    greedy = [
        Response(q.question_id, 0, "Paris", tuple(tiny_tokenizer()("Paris").input_ids), "stop") for q in questions
    ]
    labels, _ = refresh.label(run, questions, greedy, verdicts, made)
    drawn = {row.question_id for row in labels if row.split.startswith("unfiltered")}
    assert drawn
    assert drawn <= fair


def test_the_fair_draw_knows_no_training_question_and_grows_with_the_seedless_limit(tmp_path):
    run = TinyRun(make_config(tmp_path, unfiltered=3))
    questions = [Question(f"s/{i}", "?", (f"answer {i}",), "s") for i in range(300)]
    few = refresh.unfiltered_candidates(run, questions)
    more = refresh.unfiltered_candidates(TinyRun(make_config(tmp_path, unfiltered=6)), questions)
    assert more[: len(few)] == few
    assert all(refresh.split_of(refresh.answers_key(q), 0) != "train" for q in more)
