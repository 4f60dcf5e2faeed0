"""The same seed gives the same answers, whoever shares the batch and wherever a run was cut."""

import itertools

import pytest
import torch

from offline.sampling.sample import GREEDY, PAPER_SAMPLING, Job, _fill_gaps
from tests.reference.tiny_tokenizer import tiny_tokenizer
from tests.unit.offline.tiny_run import encode, make_questions, make_sampler, tiny_llama

QUESTIONS = make_questions(11)


def draw(sampler, jobs, params=PAPER_SAMPLING):
    """All responses by (question, sample); a pair that came twice would show as a missing one."""
    rows = [row for rows in sampler.draw(jobs, params) for row in rows]
    found = {(row.question_id, row.sample): row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture(scope="module")
def undisturbed():
    return draw(make_sampler(), [Job(question, (1, 2, 3)) for question in QUESTIONS])


def test_every_sample_of_every_question_comes_once(undisturbed):
    assert set(undisturbed) == {(q.question_id, s) for q in QUESTIONS for s in (1, 2, 3)}
    assert {row.finish_reason for row in undisturbed.values()} == {"stop", "length"}  # both ways out are covered
    assert len({row.token_ids for row in undisturbed.values()}) > 25  # no two streams are the same by construction


@pytest.mark.parametrize("max_rows", [1, 3, 64])
def test_answers_do_not_depend_on_the_batch(undisturbed, max_rows):
    jobs = [Job(question, (1, 2, 3)) for question in reversed(QUESTIONS)]
    assert draw(make_sampler(max_rows=max_rows), jobs) == undisturbed


def test_answers_do_not_depend_on_which_other_samples_are_drawn(undisturbed):
    alone = draw(make_sampler(), [Job(QUESTIONS[4], (3,))])
    assert alone == {key: undisturbed[key] for key in alone}


def test_the_seed_and_the_sample_number_decide_the_draw(undisturbed):
    other = draw(make_sampler(seed=1), [Job(question, (1, 2, 3)) for question in QUESTIONS])
    assert sum(other[key].token_ids == undisturbed[key].token_ids for key in other) < 5
    equal = sum(undisturbed[q.question_id, 1].token_ids == undisturbed[q.question_id, 2].token_ids for q in QUESTIONS)
    assert equal < 3


def test_what_is_drawn_after_a_cut_is_what_would_have_been_drawn(undisturbed):
    jobs = [Job(question, (1, 2, 3)) for question in QUESTIONS]
    sampler = make_sampler()
    first = [row for rows in itertools.islice(sampler.draw(jobs, PAPER_SAMPLING), 4) for row in rows]
    done = {(row.question_id, row.sample) for row in first}
    assert 0 < len(done) < len(undisturbed)
    left = [
        Job(job.question, missing)
        for job in jobs
        if (missing := tuple(s for s in job.samples if (job.question.question_id, s) not in done))
    ]
    second = {}
    for count in (1, 2, 3):
        second |= draw(make_sampler(max_rows=5), [job for job in left if len(job.samples) == count])
    assert {(row.question_id, row.sample): row for row in first} | second == undisturbed


def test_greedy_answers_are_those_of_generate():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    found = draw(make_sampler(), [Job(question, (0,)) for question in QUESTIONS], GREEDY)
    for question in QUESTIONS:
        ids = torch.tensor([encode(question)])
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
        expected = whole[0, ids.shape[1] :].tolist()
        stops = model.generation_config.eos_token_id
        is_stopped = expected[-1] in stops
        row = found[question.question_id, 0]
        assert list(row.token_ids) == (expected[:-1] if is_stopped else expected)
        assert row.finish_reason == ("stop" if is_stopped else "length")
        assert row.text == tokenizer.decode(row.token_ids, skip_special_tokens=True)


def test_an_answer_may_be_empty(undisturbed):
    rows = draw(make_sampler(stop_share=0.5), [Job(question, (1,)) for question in QUESTIONS])
    empty = [row for row in rows.values() if not row.token_ids]
    assert empty
    assert all((row.text, row.finish_reason) == ("", "stop") for row in empty)


def test_more_samples_than_rows_are_drawn_all_the_same():
    rows = draw(make_sampler(max_rows=2), [Job(QUESTIONS[0], tuple(range(1, 8)))])
    assert len(rows) == 7


def test_jobs_of_unequal_counts_are_refused_not_mixed_up():
    with pytest.raises(ValueError, match="as many samples"):
        draw(make_sampler(), [Job(QUESTIONS[0], (1, 2)), Job(QUESTIONS[1], (1,))])


def test_no_jobs_give_no_rows():
    assert draw(make_sampler(), []) == {}


@pytest.mark.parametrize("kept", [[], [0], [3], [0, 2, 3], [1, 4, 5, 7], [0, 1, 2]])
def test_filling_gaps_keeps_every_row_once_and_moves_only_rows_from_the_end(kept):
    order = _fill_gaps(kept)
    assert sorted(order) == kept
    assert all(row == at or row >= len(kept) for at, row in enumerate(order))
