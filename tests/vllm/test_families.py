"""Every family of models that the taps support, as a tiny random checkpoint, in vLLM's own implementation of it."""

import asyncio

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: see README, Engines")

from tests.reference.engine_runs import random_bank, request
from tests.vllm.runs import IN_CORE, check, check_scored, collect_all

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

FAMILIES = ("Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3", "Phi3", "Olmo2", "Llama")
PROMPTS = [[5, 9, 33, 60, 4, 7, 71, 20, 11, 40, 41, 8], [8, 3], [90, 12, 6, 44, 21, 30, 77, 7, 8], [50]]


@pytest.mark.parametrize("family", FAMILIES)
async def test_hazard_a_family_is_tapped_elsewhere_than_in_transformers(shelf, family):
    engine = await shelf.get(shelf.tiny(family), arguments=IN_CORE)
    bank = random_bank(engine.checkpoint.skeleton, n=60)
    await engine.load_heads(bank)
    wanted = [
        request(prompt, 16, alpha=alpha, wants_neurons=alpha == 0.5)
        for prompt, alpha in zip(PROMPTS, (1.0, 0.0, 0.5, 2.0), strict=True)
    ]
    streams, scored = await asyncio.gather(
        collect_all(engine, wanted), engine.score(PROMPTS[0][:4], PROMPTS[0][4:], alpha=0.5, wants_neurons=True)
    )
    for one, steps in zip(wanted, streams, strict=True):
        check(engine, bank, one, steps)
    check_scored(engine, bank, PROMPTS[0][:4], PROMPTS[0][4:], scored, 0.5)
