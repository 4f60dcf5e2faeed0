"""Samples are spent where they can matter, and a kill changes neither which are drawn nor what they say."""

from collections import Counter

import pytest

from offline.labels.judge import judge_alias
from offline.labels.label import answers_key, split_of
from offline.records import Question, Response
from offline.sampling.asking import ask_greedy, ask_samples, pick_questions
from offline.stages import Stage
from tests.unit.offline.tiny_run import make_questions, make_sampler


class ScriptedSampler:
    """Answers from a script (question id -> verdicts of samples 0, 1, ...), one response a list; may be killed."""

    def __init__(self, script, *, killed_after=None):
        self.script, self.killed_after = script, killed_after
        self.drawn = []

    def draw(self, jobs, params):
        assert len({len(job.samples) for job in jobs}) <= 1
        for job in jobs:
            for sample in job.samples:
                if len(self.drawn) == self.killed_after:
                    raise KeyboardInterrupt
                self.drawn.append((job.question.question_id, sample))
                verdict = self.script[job.question.question_id][sample]
                text = {"r": "Paris", "w": "London", "n": "I don't know"}[verdict]
                yield [Response(job.question.question_id, sample, text, (1,), "stop")]


def open_stage(tmp_path):
    return Stage(tmp_path, "samples", Response, {})


def rows_of(stage):
    return {(row.question_id, row.sample): row for row in stage.rows()}


def judge_greedy(questions, stage):
    by_id = {question.question_id: question for question in questions}
    return {row.question_id: judge_alias(by_id[row.question_id], row.text)[0] for row in stage.rows()}


def ask_scripted(tmp_path, script, *, agreement, n=10, killed_after=None):
    questions = make_questions(len(script))
    sampler = ScriptedSampler(
        {q.question_id: "?" + script[i] for i, q in enumerate(questions)}, killed_after=killed_after
    )
    greedy = {q.question_id: "right" if script[i][0] == "r" else "wrong" for i, q in enumerate(questions)}
    stage = open_stage(tmp_path)
    ask_samples(stage, questions, greedy, sampler, n=n, agreement=agreement)
    return sampler, stage


# The early drop


@pytest.mark.parametrize(
    ("first_half", "agreement", "goes_on"),
    [
        ("rrrrr", 1.0, True),
        ("rrrrw", 1.0, False),  # one miss is one too many for 10 of 10
        ("rrrwn", 0.8, True),  # two misses of ten still leave 8
        ("rrwwn", 0.8, False),
        ("rrwwn", 0.7, True),  # 10 * (1 - 0.7) is 3.0000000000000004 or 2.9999999999999996: exactly 3 must pass
        ("rwwwn", 0.6, True),
        ("rwwww", 0.6, True),
        ("rnnnn", 0.5, True),
    ],
)
def test_a_question_leaves_as_soon_as_it_cannot_reach_the_agreement(tmp_path, first_half, agreement, goes_on):
    sampler, stage = ask_scripted(tmp_path, [first_half + "rrrrr"], agreement=agreement)
    assert len(sampler.drawn) == (10 if goes_on else 5)
    assert stage.is_complete
    assert stage.manifest["counts"] == {"questions": 1, "responses": len(sampler.drawn)}


def test_a_greedy_answer_that_the_samples_contradict_is_dropped(tmp_path):
    questions = make_questions(1)
    sampler = ScriptedSampler({questions[0].question_id: "?rrrrrrrrrr"})
    ask_samples(open_stage(tmp_path), questions, {questions[0].question_id: "wrong"}, sampler, n=10, agreement=0.6)
    assert len(sampler.drawn) == 5  # five right ones: at most five of ten can be wrong


def test_an_odd_number_of_samples_is_drawn_in_full(tmp_path):
    sampler, _ = ask_scripted(tmp_path, ["rrrrrrr"], agreement=1.0, n=7)
    assert sampler.drawn == [("s/0", sample) for sample in range(1, 8)]


# Kills


@pytest.mark.parametrize("killed_after", [1, 4, 9, 14, 17, 22])
def test_a_kill_neither_loses_nor_repeats_a_sample_and_drops_the_same_questions(tmp_path, killed_after):
    script = ["rrrrrrrrrr", "rrwrrrrrrr", "wwwwwwwwww", "wwwwrwwwww"]
    whole, expected = ask_scripted(tmp_path / "whole", script, agreement=1.0)
    with pytest.raises(KeyboardInterrupt):
        ask_scripted(tmp_path / "cut", script, agreement=1.0, killed_after=killed_after)
    before = len(rows_of(open_stage(tmp_path / "cut")))
    assert before == killed_after
    rest, stage = ask_scripted(tmp_path / "cut", script, agreement=1.0)
    assert len(rest.drawn) == len(whole.drawn) - before
    assert rows_of(stage) == rows_of(expected)


def test_a_complete_stage_draws_nothing(tmp_path):
    _, stage = ask_scripted(tmp_path, ["rrrrrrrrrr"], agreement=1.0)
    sampler, again = ask_scripted(tmp_path, ["rrrrrrrrrr"], agreement=1.0)
    assert sampler.drawn == []
    assert rows_of(again) == rows_of(stage)


def test_rows_of_questions_that_are_no_longer_picked_do_not_stop_a_resume(tmp_path):
    with open_stage(tmp_path) as stage:
        stage.append([Response("gone/1", 1, "Paris", (1,), "stop")])
    sampler, _ = ask_scripted(tmp_path, ["rrrrr"], agreement=1.0, n=5)
    assert len(sampler.drawn) == 5


class KilledStage(Stage):
    """Dies after a few appends, with half a line written."""

    appends = 0

    def append(self, rows):
        if self.appends == 3:
            self._file.write('{"question_id": "s/')
            raise KeyboardInterrupt
        self.appends += 1
        super().append(rows)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Questions whose greedy answers are right for every third, the greedy stage and the sample stage."""
    out = tmp_path_factory.mktemp("undisturbed")
    plain = make_questions(12)
    first = Stage(out, "first", Response, {})
    ask_greedy(first, plain, make_sampler())
    texts = {row.question_id: row.text for row in first.rows()}
    questions = [
        Question(q.question_id, q.question, (texts[q.question_id] if i % 3 else "Paris",), q.source)
        for i, q in enumerate(plain)
    ]
    return questions, *ask_both(out, questions)


def ask_both(out, questions, *, stage_type=Stage):
    greedy = stage_type(out, "greedy", Response, {})
    ask_greedy(greedy, questions, make_sampler(max_rows=6))
    samples = stage_type(out, "samples", Response, {})
    ask_samples(samples, questions, judge_greedy(questions, greedy), make_sampler(max_rows=6), n=10, agreement=0.8)
    return rows_of(greedy), rows_of(samples)


def test_a_real_run_killed_in_every_stage_gives_the_rows_of_an_undisturbed_one(tmp_path, undisturbed):
    questions, greedy, samples = undisturbed
    kills = 0
    while True:
        try:
            found = ask_both(tmp_path, questions, stage_type=KilledStage)
        except KeyboardInterrupt:
            kills += 1
            continue
        break
    assert kills >= 4
    assert found == (greedy, samples)
    assert len(samples) < 10 * len(questions)  # some left early
    assert {row.sample for row in samples.values()} == set(range(1, 11))  # and some did not


# Which questions are asked again


def make_verdicts(n, *, right, source, group):
    """n questions of their own answers; every `right`-th is right."""
    questions = [
        Question(f"{source}/{group}{i}", f"what is number {i}?", (f"answer {source} {group} {i}",), source, group)
        for i in range(n)
    ]
    return questions, {q.question_id: "right" if i % right == 0 else "wrong" for i, q in enumerate(questions)}


def test_as_many_wrong_questions_are_asked_again_as_can_be_balanced():
    questions, greedy = [], {}
    for source, group, right in (("a", "x", 3), ("a", "y", 10), ("b", "", 5)):
        more, verdicts = make_verdicts(60, right=right, source=source, group=group)
        questions += more
        greedy |= verdicts
    refused = [q.question_id for q in questions if greedy[q.question_id] == "wrong"][:9]
    greedy |= dict.fromkeys(refused, "refusal")
    picked = pick_questions(questions, greedy, surplus=1.0, seed=0)
    assert len({q.question_id for q in picked}) == len(picked)
    assert not {q.question_id for q in picked} & set(refused)
    assert {k for k, v in greedy.items() if v == "right"} <= {q.question_id for q in picked}
    counts = {}
    for question in picked:
        stratum = (split_of(answers_key(question), 0), question.source, question.group)
        counts.setdefault(stratum, []).append(greedy[question.question_id])
    there = Counter((split_of(answers_key(q), 0), q.source, q.group, greedy[q.question_id]) for q in questions)
    assert len(counts) == 8
    for stratum, verdicts in counts.items():
        right = verdicts.count("right")
        assert right == there[*stratum, "right"]
        assert verdicts.count("wrong") == min(right, there[*stratum, "wrong"])


def test_the_surplus_scales_the_wrong_ones_only():
    questions, greedy = make_verdicts(400, right=8, source="a", group="")
    sizes = []
    for surplus in (0.5, 1.0, 2.0):
        picked = [greedy[q.question_id] for q in pick_questions(questions, greedy, surplus=surplus, seed=0)]
        assert picked.count("right") == 50
        sizes.append(picked.count("wrong"))
    assert sizes[1] == 50
    assert abs(sizes[0] - 25) <= 2  # rounded in each split
    assert sizes[2] == 100


def test_the_pick_is_repeatable_and_follows_the_seed():
    questions, greedy = make_verdicts(200, right=10, source="a", group="")
    first = pick_questions(questions, greedy, surplus=1.0, seed=0)
    assert pick_questions(questions, greedy, surplus=1.0, seed=0) == first
    assert pick_questions(questions, greedy, surplus=1.0, seed=1) != first


def test_no_sample_is_spent_on_questions_that_cannot_be_judged():
    echoed = Question("a/1", "Is it black or white?", ("black", "white"), "a")
    assert pick_questions([echoed], {"a/1": "right"}, surplus=1.0, seed=0) == []


def test_a_greedy_pass_resumes_without_asking_twice(tmp_path):
    questions = make_questions(6)
    script = {q.question_id: "r" for q in questions}
    stage = Stage(tmp_path, "greedy", Response, {})
    with pytest.raises(KeyboardInterrupt):
        ask_greedy(stage, questions, ScriptedSampler(script, killed_after=4))
    sampler = ScriptedSampler(script)
    resumed = Stage(tmp_path, "greedy", Response, {})
    ask_greedy(resumed, questions, sampler)
    assert len(sampler.drawn) == 2
    assert resumed.manifest["counts"] == {"responses": 6}
    assert sorted(row.question_id for row in resumed.rows()) == [q.question_id for q in questions]
