"""The sampler on vLLM as far as it needs no vLLM: how long an engine it asks for, and answers that vLLM gives up."""

import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest

from offline.sampling.sample import GREEDY, Job
from offline.sampling.sample_vllm import VllmSampler
from tests.reference.tiny_models import build_tiny
from tests.reference.tiny_tokenizer import with_newlines
from tests.unit.offline.tiny_run import make_questions


class LLM:
    """In the place of vLLM's: a request's first step ends it."""

    reason = "stop"
    started: ClassVar[list] = []

    def __init__(self, **arguments):
        self.started.append(arguments)
        self.llm_engine, self.engine_core = self, self
        self.waiting = []

    def add_request(self, number, prompt, params):
        self.waiting.append(number)

    def step(self):
        made = SimpleNamespace(token_ids=[5], finish_reason=self.reason, stop_reason=None)
        waiting, self.waiting = self.waiting, []
        return [SimpleNamespace(request_id=number, finished=True, outputs=[made]) for number in waiting]

    def shutdown(self): ...


@pytest.fixture
def sampler(tmp_path, monkeypatch):
    tokenizer = with_newlines(has_template=False)
    build_tiny("Llama", vocab_size=len(tokenizer), max_position_embeddings=131072).save_pretrained(tmp_path)
    keep = SimpleNamespace(FINAL_ONLY=0)
    modules = {
        "vllm": SimpleNamespace(LLM=LLM, SamplingParams=SimpleNamespace),
        "vllm.inputs": SimpleNamespace(TokensPrompt=SimpleNamespace),
        "vllm.sampling_params": SimpleNamespace(RequestOutputKind=keep),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(LLM, "started", [])
    return VllmSampler(tmp_path, tokenizer, lambda question: [3] * 10, seed=0, device="cpu", max_tokens=50)


def test_hazard_a_long_context_is_asked_of_a_small_cache(sampler):
    """A 128k context does not fit the keys and values of a CPU: vLLM would refuse to start."""
    jobs = [Job(question, (0,)) for question in make_questions(2)]
    for n_prompt, expected in ((10, [4096]), (4046, [4096]), (5000, [4096, 5050]), (10, [4096, 5050])):
        sampler.encode = lambda question, n=n_prompt: [3] * n
        assert sum(map(len, sampler.draw(jobs, GREEDY))) == 2
        assert [arguments["max_model_len"] for arguments in LLM.started] == expected
    sampler.encode = lambda question: [3] * 200_000
    list(sampler.draw(jobs, GREEDY))
    assert LLM.started[-1]["max_model_len"] == 131072, "what is more is for vLLM to refuse"


@pytest.mark.parametrize("reason", ["abort", "error", "repetition", None])
def test_hazard_an_answer_that_vllm_gave_up_is_kept_as_a_whole_one(sampler, monkeypatch, reason):
    monkeypatch.setattr(LLM, "reason", reason)
    with pytest.raises(RuntimeError, match=rf"vLLM ended sample 0 of question .* with {reason!r}"):
        list(sampler.draw([Job(make_questions(1)[0], (0,))], GREEDY))
