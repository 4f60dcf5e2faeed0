"""train_probe.py's sampling on vLLM against the sampler on transformers, real default model."""

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm")

from offline.questions.loading import load_questions
from offline.run import Run, RunConfig
from offline.sampling.sample import GREEDY, PAPER_SAMPLING, Job, Sampler
from offline.sampling.sample_vllm import VllmSampler
from probes.models import load_model
from tests.reference.tiny_tokenizer import with_newlines
from tests.unit.offline.tiny_run import make_questions
from tests.vllm.runs import Shelf

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


def test_a_base_models_answer_ends_before_the_first_newline_in_both_samplers(tmp_path):
    tokenizer = with_newlines(has_template=False)
    folder = Shelf(tmp_path).tiny("Llama", vocab_size=len(tokenizer), eos_token_id=0, seed=3)
    questions = make_questions(24)
    common = {"encode": lambda question: [3 + int(question.question_id[2:]), 4], "seed": 0, "max_tokens": 12}
    jobs = [Job(question, (0,)) for question in questions]
    expected = draw(Sampler(load_model(folder, dtype="float32"), tokenizer, **common), jobs, GREEDY)
    sampler = VllmSampler(folder, tokenizer, dtype="float32", device="cpu", **common)
    try:
        assert draw(sampler, jobs, GREEDY) == expected
        rows = draw(sampler, [Job(question, tuple(range(1, 9))) for question in questions], PAPER_SAMPLING)
    finally:
        sampler.close()
    assert len(rows) == 192
    assert {row.finish_reason for row in rows.values()} == {"stop", "length"}
    assert any(row.text.startswith("\n") and row.text.strip() for row in rows.values()), "went on after a first newline"
    assert all(not row.text.lstrip().partition("\n")[2].strip() for row in rows.values())
