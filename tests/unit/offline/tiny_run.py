"""A tiny model that answers, questions for it, and runs over it: what the stage tests share."""

from functools import cache
from types import SimpleNamespace

import torch

from offline.records import Question
from offline.run import Run, RunConfig
from offline.sampling.sample import Sampler
from probes.prompts import ANSWER_ONLY, encode_prompt
from tests.reference.tiny_models import build_tiny
from tests.reference.tiny_tokenizer import tiny_tokenizer

torch.set_num_threads(1)

WORDS = ("capital", "gold", "Peru", "storm", "novel", "the", "France", "symbol", "who", "Lima", "year", "é", "Tokyo")


@cache
def tiny_llama(*, stop_share: float = 0.15):
    """A float32 Llama of random weights over `tiny_tokenizer`; a share of its tokens end the answer."""
    tokenizer = tiny_tokenizer()
    model = build_tiny("Llama", vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
    every = max(1, round(1 / stop_share)) if stop_share else len(tokenizer)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(3, len(tokenizer), every)]
    return model


def make_questions(n, *, source="s", group="", answers=("Paris",)):
    """Questions of different lengths."""
    return [
        Question(
            f"{source}/{i}", " ".join(WORDS[(i * 7 + k) % len(WORDS)] for k in range(1 + i % 6)), answers, source, group
        )
        for i in range(n)
    ]


def encode(question):
    return encode_prompt(tiny_tokenizer(), question.question + ANSWER_ONLY)


def make_sampler(*, seed=0, max_tokens=12, max_rows=8, stop_share=0.15):
    return Sampler(
        tiny_llama(stop_share=stop_share), tiny_tokenizer(), encode, seed=seed, max_tokens=max_tokens, max_rows=max_rows
    )


class TinyRun(Run):
    """A run whose model is in memory."""

    tokenizer = tiny_tokenizer()

    def model(self, dtype):
        return tiny_llama()


def make_config(out, questions=("questions.jsonl",), **changes):
    settings = {"model": "tiny", "out": out, "max_tokens": 6, "samples": 2, "agreement": 0.5, "batch_rows": 8}
    return RunConfig(**{**settings, "questions": tuple(map(str, questions)), **changes})


def make_run(out, **changes):
    """What the last stages use of a run."""
    config = RunConfig(**{"model": "tiny", "questions": ("x",), "out": out, "max_per_mille": 500.0, **changes})
    return SimpleNamespace(config=config, out=out, model=lambda _dtype: tiny_llama(), tokenizer=tiny_tokenizer())
