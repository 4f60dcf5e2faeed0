"""The transformers engine on the real default model, float32, beside plain passes of the same model."""

import asyncio

import pytest
import pytest_asyncio
import torch

from probes.models import DEFAULT_MODEL, resolve_model
from probes.prompts import encode_prompt
from probes.sampling import SamplingParams
from service.engines.base import RequestTiming
from tests.reference.engine_runs import (
    check_scored,
    check_stream,
    collect,
    collect_all,
    held,
    passes,
    random_bank,
    request,
    scores_of,
    serving,
    tokens_of,
)
from tests.reference.slow_engine import slow_greedy

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

QUESTIONS = (
    "What is the capital of France?",
    "Who wrote the novel Middlemarch?",
    "Name the chemical element with the symbol Fe, and say in one sentence what it is used for.",
    "In which country is the river Ebro?",
    "What is 12 times 12?",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine():
    torch.set_num_threads(1)  # the results are compared closely, and other tests may run beside these
    async with serving(resolve_model(DEFAULT_MODEL), dtype="float32", device="cpu") as running:
        await running.load_heads(random_bank(running.model, n=100))
        yield running


@pytest.fixture
def bank(engine):
    return random_bank(engine.model, n=100)


@pytest.fixture
def prompts(engine):
    return [encode_prompt(engine.tokenizer, question) for question in QUESTIONS]


async def test_streamed_rows_equal_score_rows_equal_plain_passes(engine, bank, prompts):
    for prompt, alpha in zip(prompts, (1.0, 0.0, 0.5, 3.0), strict=False):
        wanted = request(prompt, 10, alpha=alpha)
        steps = await collect(engine, wanted)
        tokens = tokens_of(steps)
        assert tokens == slow_greedy(engine.model, bank, prompt, len(tokens), alpha)
        check_stream(engine.model, bank, wanted, steps)
        scored = await engine.score(prompt, tokens, alpha=alpha)
        check_scored(engine.model, bank, prompt, tokens, scored, alpha)
        found = torch.tensor([row.scores for row in scored.rows], dtype=torch.float64)
        assert (found[: len(steps)] - scores_of(steps)).abs().max() < 1e-4


async def test_ten_mixed_requests_get_what_they_get_alone(engine, prompts):
    alphas, samplings = (0.0, 0.5, 1.0, 3.0), (SamplingParams(), SamplingParams(1.0, 0.9, 50), SamplingParams(1.0))
    wanted = [
        request(prompts[at % 5], 8 + at, alpha=alphas[at % 4], sampling=samplings[at % 3], seed=at) for at in range(10)
    ]
    for one, steps in zip(wanted, await collect_all(engine, wanted), strict=True):
        alone = await collect(engine, one)
        assert tokens_of(steps) == tokens_of(alone)
        assert (scores_of(steps) - scores_of(alone)).abs().max() < 1e-4


async def test_alpha_one_leaves_logits_and_tokens_bit_identical(engine, prompts):
    seen = []
    with engine.model.register_forward_hook(lambda _m, _args, output: seen.append(output.logits.clone())):
        guarded = await collect_all(engine, [request(prompt, 12) for prompt in prompts[:2]])
        n = len(seen)
        unguarded = await collect_all(engine, [request(prompt, 12, is_scored=False) for prompt in prompts[:2]])
    assert [tokens_of(steps) for steps in guarded] == [tokens_of(steps) for steps in unguarded]
    assert all(torch.equal(a, b) for a, b in zip(seen[:n], seen[n:], strict=False))


async def test_eight_requests_share_steps_and_one_that_leaves_frees_its_row(engine, prompts):
    stays = [request(prompts[at % 5], 24) for at in range(7)]
    alone = [await collect(engine, one) for one in stays[:5]]
    with passes(engine.model) as log:
        with held(engine):
            tasks = [asyncio.create_task(collect(engine, one)) for one in stays]
            leaves = engine.generate(request(prompts[2], 24), RequestTiming())
            first = asyncio.create_task(anext(leaves))
            await asyncio.sleep(0)
        await first
        for _ in range(8):  # the prompts may have been prefilled in two groups
            await anext(leaves)
        await leaves.aclose()
        begun = len(log)
        streams = await asyncio.gather(*tasks)
    assert max(rows for rows, _ in log[:begun]) == 8
    assert max(rows for rows, _ in log[begun + 1 :]) <= 7
    assert len(log) < 3 * 25
    for steps, expected in zip(streams, [*alone, *alone[:2]], strict=True):
        assert tokens_of(steps) == tokens_of(expected)
        assert (scores_of(steps) - scores_of(expected)).abs().max() < 1e-4
