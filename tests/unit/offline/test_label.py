"""Labels must not leak answers between splits, tilt a source or relation, or guess what nobody judged."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from offline.labels.label import ANSWER_ROWS, SPLITS, answers_key, count_rows, label_responses, split_of
from offline.questions.loading import load_questions
from offline.records import Judgement, Question

VERDICTS = ("right", "wrong", "refusal", "unjudged")


def judgement(question, sample, verdict):
    return Judgement(question.question_id, sample, verdict, "alias")


def make_world(n, *, seed=0):
    """Questions over few answer strings, with random greedy verdicts and mostly consistent samples."""
    draw = random.Random(seed)
    questions, greedy, samples = [], {}, {}
    for i in range(n):
        source, group = draw.choice([("facts", "capital"), ("facts", "symbol"), ("trivia", "")])
        answer = f"Answer {draw.randrange(n // 3)}"
        question = Question(f"{source}/{i}", f"what is {i}?", (answer, "also this"), source, group)
        verdict = draw.choices(VERDICTS, weights=(3, 5, 1, 1))[0]
        questions.append(question)
        greedy[question.question_id] = judgement(question, 0, verdict)
        if draw.random() < 0.8:
            others = [verdict if draw.random() < 0.9 else draw.choice(VERDICTS) for _ in range(10)]
            samples[question.question_id] = [judgement(question, s + 1, v) for s, v in enumerate(others)]
    return questions, greedy, samples


def label(world, **changes):
    return label_responses(*world, **{"agreement": 0.8, "seed": 0, "unfiltered": 100, **changes})


@pytest.fixture(scope="module")
def world():
    return make_world(1500)


def test_no_answer_string_stands_in_two_splits(world):
    split_of_answer = {}
    for row in label(world):
        split = row.split.removeprefix("unfiltered-")
        assert split_of_answer.setdefault(row.answers_key, split) == split
    assert len(split_of_answer) > 300


def test_spelling_of_an_answer_does_not_put_it_in_another_split():
    keys = {
        answers_key(Question("a/1", "?", (text,), "a"))
        for text in ("The Beatles", "the beatles", "BEATLES!", "Beatles")
    }
    assert len(keys) == 1
    assert answers_key(Question("a/1", "?", ("The The",), "a")) == "the the"


def test_made_up_entities_have_no_answer_and_are_split_one_by_one():
    keys = {answers_key(Question(f"madeup/{i}", "?", (), "madeup")) for i in range(50)}
    assert len(keys) == 50
    assert len({split_of(key, 0) for key in keys}) == len(SPLITS)


def test_a_limited_draw_puts_made_up_questions_in_every_split():
    """Draw and split once hashed the same text: the 200 lowest of 3,600 hashes were drawn, and all were below 0.45."""
    drawn = load_questions(["builtin:madeup"], limit=200, seed=0)
    counts = Counter(split_of(answers_key(question), 0) for question in drawn)
    for split, share in SPLITS.items():
        assert counts[split] / len(drawn) == pytest.approx(share, abs=0.11)
        assert counts[split]


def test_classes_are_balanced_within_split_source_and_relation(world):
    counts = Counter(
        (r.split, r.source, r.group, r.label) for r in label(world) if not r.split.startswith("unfiltered")
    )
    strata = {key[:3] for key in counts}
    assert len(strata) == 9
    for stratum in strata:
        assert counts[*stratum, "faithful"] == counts[*stratum, "hallucinated"] > 0


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_answer_has_a_capped_number_of_training_rows_in_each_class(split):
    keys = [f"answer {i}" for i in range(40) if split_of(f"answer {i}", 0) == split]
    common, rare = keys[:2]
    questions = [Question(f"a/{i}", "?", (rare if i % 10 == 0 else common,), "a") for i in range(200)]
    verdicts = {q.question_id: "right" if i % 4 < 2 else "wrong" for i, q in enumerate(questions)}
    greedy = {key: judgement(Question(key, "?", (), "a"), 0, verdict) for key, verdict in verdicts.items()}
    samples = {key: [replace(row, sample=s) for s in range(1, 11)] for key, row in greedy.items()}
    rows = label((questions, greedy, samples), unfiltered=0)
    counts = Counter((row.answers_key, row.label) for row in rows)
    if split == "train":
        assert counts[common, "faithful"] == counts[common, "hallucinated"] == ANSWER_ROWS
        assert counts[rare, "faithful"] == counts[rare, "hallucinated"] == 10
    else:
        assert sum(counts.values()) == 200
    assert rows == label((questions[::-1], greedy, samples), unfiltered=0)


def test_what_is_refused_unjudged_or_inconsistent_is_never_a_filtered_row(world):
    _, greedy, samples = world
    wanted = {"faithful": "right", "hallucinated": "wrong"}
    rows = label(world)
    assert {row.sample for row in rows} == {0}
    for row in rows:
        verdict = wanted[row.label]
        assert greedy[row.question_id].verdict == verdict
        if row.split.startswith("unfiltered"):
            assert row.agreement is None
        else:
            share = sum(j.verdict == verdict for j in samples[row.question_id]) / 10
            assert row.agreement == share >= 0.8


def test_a_stricter_agreement_keeps_fewer(world):
    kept = [sum(not r.split.startswith("unfiltered") for r in label(world, agreement=a)) for a in (0.5, 0.8, 1.0)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[2] > 0


def test_samples_that_contradict_the_greedy_answer_drop_it():
    question = Question("a/1", "?", ("x",), "a")
    other = Question("a/2", "?", ("x",), "a")
    greedy = {q.question_id: judgement(q, 0, v) for q, v in ((question, "right"), (other, "wrong"))}
    samples = {q.question_id: [judgement(q, s, "wrong") for s in range(1, 11)] for q in (question, other)}
    rows = label_responses([question, other], greedy, samples, agreement=1.0, seed=0, unfiltered=0)
    assert rows == []  # nothing faithful is left to balance the wrong one


def test_more_questions_never_move_an_old_one(world):
    before = {row.question_id: row.split.removeprefix("unfiltered-") for row in label(world)}
    more = make_world(4500, seed=1)
    questions = [Question(f"new-{q.question_id}", q.question, q.answers, q.source, q.group) for q in more[0]]
    greedy = world[1] | {f"new-{key}": Judgement(f"new-{key}", 0, j.verdict, "alias") for key, j in more[1].items()}
    rows = label((world[0] + questions, greedy, world[2]))
    after = {row.question_id: row.split.removeprefix("unfiltered-") for row in rows}
    assert len(before.keys() & after.keys()) > 200
    assert all(after[key] == before[key] for key in before.keys() & after.keys())


def test_the_order_of_the_questions_does_not_matter(world):
    questions, greedy, samples = world
    assert set(map(str, label((questions[::-1], greedy, samples)))) == set(map(str, label(world)))


def test_splits_have_their_shares_and_follow_the_seed():
    keys = [f"key {i}" for i in range(20_000)]
    counts = Counter(split_of(key, 0) for key in keys)
    for split, share in SPLITS.items():
        assert counts[split] / len(keys) == pytest.approx(share, abs=0.015)
    assert [split_of(key, 0) for key in keys[:50]] != [split_of(key, 1) for key in keys[:50]]
    assert sum(SPLITS.values()) == pytest.approx(1)


def test_unfiltered_rows_keep_the_natural_rate_and_their_limit(world):
    _, greedy, _ = world
    rows = [row for row in label(world, unfiltered=10_000) if row.split == "unfiltered-test"]
    answered = [
        q
        for q in world[0]
        if split_of(answers_key(q), 0) == "test" and greedy[q.question_id].verdict in ("right", "wrong")
    ]
    assert {row.question_id for row in rows} == {q.question_id for q in answered}
    few = [row for row in label(world, unfiltered=20) if row.split == "unfiltered-test"]
    assert len(few) == 20
    assert {row.question_id for row in few} <= {row.question_id for row in rows}
    assert not any(row.split == "unfiltered-train" for row in rows)


def test_questions_judged_because_they_were_sampled_again_do_not_tilt_the_natural_rate(world):
    fair = {q.question_id for q in world[0][::2]}
    rows = [row for row in label(world, natural=fair) if row.split.startswith("unfiltered")]
    assert rows
    assert all(row.question_id in fair for row in rows)


def test_questions_that_name_their_own_answers_are_left_out():
    question = Question("a/1", "Is it black or white?", ("black", "white"), "a")
    greedy = {"a/1": judgement(question, 0, "right")}
    assert label_responses([question], greedy, {}, agreement=1.0, seed=0, unfiltered=10) == []


def test_counts_are_by_split_and_by_source(world):
    rows = label(world)
    counts = count_rows(rows)
    assert sum(counts["train"].values()) == sum(counts["train by source"].values())
    assert counts["test"]["faithful"] == counts["test"]["hallucinated"]
