"""vLLM's evidence of the default model beside plain passes of the same checkpoint, float32."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import pytest_asyncio

pytest.importorskip("vllm", reason="vLLM is not installed: see README, Engines")

from probes.registry import find_probe
from probes.sampling import SamplingParams
from service.engines.vllm_banks import LoadedBank
from service.probe_roles.served import head_bank
from tests.reference.engine_runs import collect, random_bank, request, scores_of, tokens_of
from tests.vllm.runs import (
    check,
    check_scored,
    collect_all,
    default_folder,
    prompts,
    recorded,
    tolerance,
    watched,
)

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

ALPHAS = (1.0, 0.0, 0.5, 3.0)


@pytest_asyncio.fixture(loop_scope="session")
async def engine(shelf):
    return await shelf.get(default_folder(), arguments={"block_size": 32})


@pytest.fixture
def bank(engine):
    return engine._banks.current.bank


async def test_hazard_solo_request_differs_from_plain_passes(engine, bank):
    for prompt, alpha in zip(prompts(engine), ALPHAS, strict=False):
        wanted = request(prompt, 16, alpha=alpha, wants_neurons=True)
        check(engine, bank, wanted, await collect(engine, wanted))


async def test_hazard_rows_are_mixed_up_in_a_batch(engine, bank):
    """Lengths, alphas, explained and unscored requests side by side."""
    questions = prompts(engine, "Answer briefly. ")
    wanted = [
        request(
            questions[at % 6] if at % 5 else questions[at % 6] * 3,
            6 + at,
            alpha=ALPHAS[at % 4],
            wants_neurons=at % 7 == 0,
            is_scored=at % 11 != 3,
        )
        for at in range(24)
    ]
    async with watched(engine) as counts:
        streams = await collect_all(engine, wanted)
    assert counts["most_requests"] > 16  # the first ones have ended when the last ones begin
    for one, steps in zip(wanted, streams, strict=True):
        check(engine, bank, one, steps)


async def test_hazard_cached_keys_of_another_alpha(engine, bank):
    prompt = prompts(engine, "This is a long introduction that says little, so that there is something to cache. " * 6)[
        0
    ]
    for turn, alpha in enumerate((1.0, 0.0, 1.0, 0.5, 0.0, 3.0, 1.0, 0.5)):
        wanted = request(prompt, 8, alpha=alpha)
        with recorded(engine) as outputs:
            steps = await collect(engine, wanted)
        is_hit = turn in (2, 4, 6, 7)
        assert (outputs[0].num_cached_tokens >= 64) == is_hit
        check(engine, bank, wanted, steps)
        check_scored(engine, bank, prompt, [5, 6, 7], await engine.score(prompt, [5, 6, 7], alpha=alpha), alpha)


async def test_hazard_without_the_salt_cached_keys_would_be_used(engine, bank, monkeypatch):
    """The test above can fail: this is what it would see."""
    prompt = prompts(engine, "Another long introduction that says little, to be cached without a salt this time. " * 6)[
        0
    ]
    monkeypatch.setattr(LoadedBank, "salt_of", lambda self, alpha: None)
    await collect(engine, request(prompt, 8))
    with recorded(engine) as outputs:
        steps = await collect(engine, request(prompt, 8, alpha=0.0))
    assert outputs[0].num_cached_tokens >= 64
    with pytest.raises(AssertionError):
        check(engine, bank, request(prompt, 8, alpha=0.0), steps)


async def test_hazard_prefix_of_another_probe_under_the_same_alpha(engine, bank):
    prompt = prompts(
        engine, "A third long introduction, which two probes scale by the same alpha, one after another. " * 6
    )[0]
    wanted = request(prompt, 8, alpha=0.0)
    check(engine, bank, wanted, await collect(engine, wanted))
    other = random_bank(engine.checkpoint.skeleton, n=60, seed=3)
    await engine.load_heads(other)
    check(engine, other, wanted, await collect(engine, wanted))


async def test_hazard_generated_and_teacher_forced_rows_differ(engine, bank):
    for prompt, alpha in zip(prompts(engine), ALPHAS, strict=False):
        steps = await collect(engine, request(prompt, 12, alpha=alpha))
        with recorded(engine) as outputs:
            scored = await engine.score(prompt, tokens_of(steps), alpha=alpha, wants_neurons=alpha == 0.5)
        # Rows of the response only, behind the first token's empty place: vLLM unpacks each number in this process.
        assert [len(output.prompt_logprobs) for output in outputs] == [1 + len(tokens_of(steps))]
        check_scored(engine, bank, prompt, tokens_of(steps), scored, alpha)
        rows = np.asarray([row.scores for row in scored.rows])
        assert np.abs(rows[: len(steps)] - scores_of(steps).numpy()).max() < tolerance(engine)
    check_scored(engine, bank, [5, 6], [], await engine.score([5, 6], []))
    check_scored(engine, bank, [5], [9, 9], await engine.score([5], [9, 9], alpha=3.0), 3.0)


async def test_hazard_teacher_forcing_among_running_requests(engine, bank):
    questions = prompts(engine, "Please answer. ")
    wanted = [request(prompt, 20, alpha=alpha) for prompt, alpha in zip(questions, ALPHAS, strict=False)]
    scores = [engine.score(prompt, prompt[:15], alpha=0.5, wants_neurons=True) for prompt in questions[:3]]
    streams, scored = await asyncio.gather(collect_all(engine, wanted), asyncio.gather(*scores))
    for one, steps in zip(wanted, streams, strict=True):
        check(engine, bank, one, steps)
    for prompt, found in zip(questions, scored, strict=False):
        check_scored(engine, bank, prompt, prompt[:15], found, 0.5)


async def test_hazard_heads_are_mixed_up(engine):
    many = random_bank(engine.checkpoint.skeleton, n=200, n_heads=4, seed=1)
    await engine.load_heads(many)
    wanted = request(prompts(engine)[0], 8, wants_neurons=True)
    check(engine, many, wanted, await collect(engine, wanted))
    with pytest.raises(ValueError, match="5 heads are more than the 4"):
        await engine.load_heads(random_bank(engine.checkpoint.skeleton, n_heads=5))
    with pytest.raises(ValueError, match=r"layer 0 has 64 slots.*HGUARD_VLLM_SLOTS=128"):
        await engine.load_heads(random_bank(engine.checkpoint.skeleton, n=4000))
    check(engine, many, wanted, await collect(engine, wanted))


async def test_shipped_probe(engine):
    shipped = head_bank(find_probe("default", engine.fingerprint()).probe)
    await engine.load_heads(shipped)
    wanted = [request(prompt, 12, alpha=alpha) for prompt, alpha in zip(prompts(engine), ALPHAS, strict=False)]
    for one, steps in zip(wanted, await collect_all(engine, wanted), strict=True):
        check(engine, shipped, one, steps)


async def test_hazard_sampled_tokens_carry_numbers_of_the_cut_distribution(engine, bank):
    prompt = prompts(engine)[2]
    hot = [SamplingParams(1.5), SamplingParams(0.8, 0.9), SamplingParams(1.0, 1.0, 40), SamplingParams(1.2, 0.95, 50)]
    wanted = [request(prompt, 15, sampling=one, seed=at, alpha=ALPHAS[at]) for at, one in enumerate(hot)]
    alone = [await collect(engine, one) for one in wanted]
    together = await collect_all(engine, [*wanted, request(prompt, 15)])
    for one, first, second in zip(wanted, alone, together, strict=False):
        assert tokens_of(first) == tokens_of(second)
        check(engine, bank, one, first)
        check(engine, bank, one, second)
    assert len({tuple(tokens_of(steps)) for steps in together}) == 5
    negative, other, huge = await collect_all(engine, [replace(wanted[0], seed=seed) for seed in (-3, 4, 2**64 + 5)])
    assert len({tuple(tokens_of(steps)) for steps in (negative, other, huge, alone[0])}) == 4
    free = [tokens_of(await collect(engine, replace(wanted[0], seed=None))) for _ in range(2)]
    assert free[0] != free[1]


async def test_hazard_the_tap_changes_what_it_reads(engine, bank):
    """alpha = 1 gives the tokens of a request that no tap knows."""
    from vllm import SamplingParams as Params
    from vllm.inputs import TokensPrompt

    for prompt in prompts(engine)[:3]:
        guarded = await collect(engine, request(prompt, 24))
        params = Params(temperature=0.0, max_tokens=24, detokenize=False, stop_token_ids=sorted(engine.stop_token_ids))
        outputs = engine._core._vllm.generate(TokensPrompt(prompt_token_ids=prompt), params, "plain")
        plain = [output async for output in outputs][-1]
        ids = [token for token in plain.outputs[0].token_ids if token not in engine.stop_token_ids]
        assert ids == tokens_of(guarded)
