"""Streams of the default model while others begin, end, leave or read slowly, and while probes change."""

import asyncio

import pytest
import pytest_asyncio

pytest.importorskip("vllm", reason="vLLM is not installed: see README, Engines")

from service.engines.base import EngineError, RequestTiming, RequestTooLongError
from tests.reference.engine_runs import collect, random_bank, request, tokens_of
from tests.vllm.runs import check, check_scored, collect_all, default_folder, prompts, recorded, watched

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session")
async def engine(shelf):
    return await shelf.get(default_folder(), arguments={"block_size": 32})


@pytest.fixture
def bank(engine):
    return engine._banks.current.bank


def banks(engine):
    """Four probes with neurons of their own and under both position rules; three fit in at once."""
    skeleton = engine.checkpoint.skeleton
    return [random_bank(skeleton, n=90, position="predicting" if at == 1 else "own", seed=at) for at in (1, 2, 3, 4)]


@pytest.mark.parametrize("position", ["own", "predicting"])
async def test_hazard_the_last_row_is_missing_or_too_many(engine, position):
    bank = random_bank(engine.checkpoint.skeleton, n=100, position=position)
    await engine.load_heads(bank)
    prompt = prompts(engine)[0]
    whole = await collect(engine, request(prompt, 30))
    assert whole[-1].finish_reason == "stop"
    n = len(tokens_of(whole))
    wanted = [request(prompt, n_tokens) for n_tokens in (1, 2, n - 1, n, n + 1, n + 2)]
    wanted += [request(prompt, n_tokens, is_scored=False) for n_tokens in (1, n, n + 1)]
    for one, steps in zip(wanted, await collect_all(engine, wanted), strict=True):
        assert len(tokens_of(steps)) == min(one.max_tokens, n)
        check(engine, bank, one, steps)


async def test_hazard_a_slow_reader_loses_the_rows_of_merged_deltas(engine, bank):
    wanted = request(prompts(engine)[2], 60, alpha=0.5, wants_neurons=True)
    steps = []
    with recorded(engine) as outputs:
        async for step in engine.generate(wanted, RequestTiming()):
            steps.append(step)
            if len(steps) in (1, 12):
                await asyncio.sleep(1)
    assert len(outputs) < len(steps)  # several tokens came in one
    check(engine, bank, wanted, steps)


async def test_hazard_one_that_leaves_takes_rows_of_others_along(engine, bank):
    questions = prompts(engine, "Explain at length. ")
    stays = [request(prompt, 24, alpha=alpha) for prompt, alpha in zip(questions, (1.0, 0.0, 0.5, 3.0), strict=False)]
    tasks = [asyncio.create_task(collect(engine, one)) for one in stays]
    leaves = engine.generate(request(questions[4], 400, alpha=0.0), RequestTiming())
    never_read = engine.generate(request(questions[5], 400), RequestTiming())
    first = [await anext(leaves) for _ in range(5)]
    early = asyncio.create_task(collect(engine, request(questions[5] * 8, 400)))
    await asyncio.sleep(0.02)  # in its prefill
    early.cancel()
    await leaves.aclose()
    await never_read.aclose()
    for one, steps in zip(stays, await asyncio.gather(*tasks), strict=True):
        check(engine, bank, one, steps)
    assert [step.finish_reason for step in first] == [None] * 5
    assert engine.running == 0
    assert engine._banks.current.running == 0
    async with watched(engine) as counts:
        await collect(engine, request(questions[0], 4))
    assert counts["most_requests"] == 1  # the scheduler has let them go too


async def test_hazard_a_request_changes_heads_while_it_runs(engine):
    first, second, third, fourth = banks(engine)
    prompt, other, last = prompts(engine, "Now: ")[:3]
    await engine.load_heads(first)
    wanted = request(prompt, 120, alpha=0.5)
    runs = engine.generate(wanted, RequestTiming())
    begun = [await anext(runs) for _ in range(3)]
    await engine.load_heads(second)
    inside = request(other, 20, alpha=0.5, wants_neurons=True)
    check(engine, second, inside, await collect(engine, inside))
    scored = await engine.score(other, last, alpha=0.0)
    check_scored(engine, second, other, last, scored, 0.0)
    also = request(other, 100, alpha=0.0)
    also_runs = engine.generate(also, RequestTiming())
    also_begun = [await anext(also_runs)]
    await engine.load_heads(third)
    loading = asyncio.create_task(engine.load_heads(fourth))
    await asyncio.sleep(0.3)
    assert not loading.done()  # all banks are in use
    check(engine, first, wanted, begun + [step async for step in runs])
    await loading
    steps = await collect(engine, request(last, 8, alpha=0.5))
    check(engine, fourth, request(last, 8, alpha=0.5), steps)
    check(engine, second, also, also_begun + [step async for step in also_runs])


async def test_hazard_heads_are_replaced_before_a_request_begins(engine):
    first, *others = banks(engine)
    await engine.load_heads(first)
    wanted = request(prompts(engine)[0], 6)
    one, two = (engine.generate(wanted, RequestTiming()) for _ in range(2))
    await engine.load_heads(others[0])
    check(engine, first, wanted, [step async for step in one])
    for bank in others[1:]:
        await engine.load_heads(bank)
    with pytest.raises(EngineError, match="heads were replaced"):
        await anext(two)


async def test_hazard_two_loads_at_once_share_a_bank(engine):
    first, second, third, _ = banks(engine)
    await engine.load_heads(first)
    wanted = request(prompts(engine)[0], 20, alpha=0.0)

    async def load_and_run(bank):
        await engine.load_heads(bank)
        return await collect(engine, wanted)

    streams = await asyncio.gather(collect(engine, wanted), load_and_run(second), load_and_run(third))
    for bank, steps in zip((first, second, third), streams, strict=True):
        check(engine, bank, wanted, steps)


async def test_hazard_a_load_that_is_given_up_or_refused_blocks_the_next(engine):
    *held, fourth = banks(engine)
    wanted = request(prompts(engine)[1], 60)
    runs = []
    for bank in held:
        await engine.load_heads(bank)
        runs.append(engine.generate(wanted, RequestTiming()))
        await anext(runs[-1])
    waiting = asyncio.create_task(engine.load_heads(fourth))
    await asyncio.sleep(0.05)
    waiting.cancel()
    for one in runs:
        await one.aclose()
    with pytest.raises(ValueError, match="slots"):
        await engine.load_heads(random_bank(engine.checkpoint.skeleton, n=4000))
    check(engine, held[-1], wanted, await collect(engine, wanted))
    await engine.load_heads(fourth)
    check(engine, fourth, wanted, await collect(engine, wanted))


async def test_requests_that_cannot_run_are_refused_at_once(engine):
    timing = RequestTiming()
    with pytest.raises(RequestTooLongError, match=r"8190 tokens and 2 to generate are more than the 8191 of"):
        engine.generate(request([5] * 8190, 2), timing)
    with pytest.raises(RequestTooLongError):
        await engine.score([5] * 8000, [6] * 192)
    for prompt, n_tokens, reason in (([], 5, "empty"), ([5, 49152], 5, "vocabulary"), ([5, -1], 5, "vocabulary")):
        with pytest.raises(ValueError, match=reason):
            engine.generate(request(prompt, n_tokens), timing)
    with pytest.raises(ValueError, match="max_tokens"):
        engine.generate(request([5], 0), timing)
    with pytest.raises(ValueError, match="widths"):
        await engine.load_heads(random_bank(random_model()))


def random_model():
    from tests.reference.tiny_models import shared_tiny

    return shared_tiny("Llama")


async def test_timing_is_filled(engine):
    timing = RequestTiming()
    await collect(engine, request(prompts(engine)[0], 8), timing)
    assert timing.prefill_seconds > 0
    assert timing.decode_seconds > 0
