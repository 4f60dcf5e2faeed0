"""train_probe.py's sampling on vLLM against the sampler on transformers, real default model."""

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm")

from offline.questions import load_questions
from offline.run import Run, RunConfig
from offline.sample import GREEDY, PAPER_SAMPLING, Job

pytestmark = pytest.mark.slow


def draw(sampler, jobs, params):
    return {(row.question_id, row.sample): row for rows in sampler.draw(jobs, params) for row in rows}


def test_vllm_draws_the_same_greedy_answers_and_repeats_its_samples(tmp_path):
    questions = load_questions(["builtin:world"], limit=12, seed=0)[:12]
    config = {"model": "smollm2-135m-instruct", "questions": ("builtin:world",), "max_tokens": 16, "dtype": "float32"}
    plain = Run(RunConfig(**config, out=tmp_path / "a", sampler="transformers"))
    run = Run(RunConfig(**config, out=tmp_path / "b", sampler="vllm"))
    greedy = [Job(question, (0,)) for question in questions]
    expected = draw(plain.sampler(), greedy, GREEDY)
    found = draw(run.sampler(), greedy, GREEDY)
    assert found == expected
    assert {row.finish_reason for row in found.values()} == {"stop", "length"}

    jobs = [Job(question, (1, 2, 3)) for question in questions]
    drawn = draw(run.sampler(), jobs, PAPER_SAMPLING)
    assert len(drawn) == 36
    assert len({row.text for row in drawn.values()}) > 12, "samples of a question differ"
    alone = draw(run.sampler(), [Job(questions[3], (2,))], PAPER_SAMPLING)
    assert alone == {key: drawn[key] for key in alone}, "a resumed run draws the same answer"
    assert run.sampling_settings != plain.sampling_settings
    run.model("float32")  # takes the memory back from vLLM
    assert run._vllm is None
