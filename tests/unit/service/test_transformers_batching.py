"""Requests that share the transformers engine's passes, wait, leave and read slowly."""

import asyncio
from contextlib import aclosing
from itertools import pairwise

from probes.sampling import SamplingParams
from service.engines.base import RequestTiming
from tests.reference.engine_runs import (
    PROMPTS,
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


async def test_a_mixed_batch_gives_what_each_request_gets_alone(engine):
    samplings = [SamplingParams(), SamplingParams(1.0, 0.9, 50), SamplingParams(0.7)]
    alphas = [1.0, 0.0, 0.5, 3.0]
    choices = [{"alpha": alphas[at % 4], "sampling": samplings[at % 3], "seed": at} for at in range(12)]
    wanted = [request(PROMPTS[at % 5], 6 + at % 4, is_scored=at != 7, **choice) for at, choice in enumerate(choices)]
    together = await collect_all(engine, wanted)
    for one, steps in zip(wanted, together, strict=True):
        alone = await collect(engine, one)
        assert tokens_of(steps) == tokens_of(alone)
        assert [step.finish_reason for step in steps] == [step.finish_reason for step in alone]
        if one.is_scored:
            assert (scores_of(steps) - scores_of(alone)).abs().max() < 1e-4
            check_stream(engine.model, random_bank(engine.model), one, steps)
        else:
            assert all(step.row is None for step in steps)


async def test_eight_concurrent_requests_share_one_prefill_and_every_step(engine):
    with passes(engine.model) as log:
        await collect_all(engine, [request(PROMPTS[at % 5], 16) for at in range(8)])
    assert log == [(8, 11)] + [(8, 1)] * 16


async def test_a_request_joins_the_ones_that_run(engine):
    with passes(engine.model) as log:
        async with aclosing(engine.generate(request(PROMPTS[0], 200), RequestTiming())) as steps:
            await anext(steps)
            await collect(engine, request(PROMPTS[1], 5))
    assert (2, 1) in log


async def test_more_than_max_rows_wait_for_their_turn(folder):
    async with serving(folder, max_rows=2) as engine:
        with passes(engine.model) as log:
            streams = await collect_all(engine, [request(prompt, 6) for prompt in PROMPTS])
        assert max(rows for rows, _ in log) == 2
        assert all(len(tokens_of(steps)) == 6 for steps in streams)


async def test_a_client_that_leaves_frees_its_row_within_one_step_and_disturbs_nobody(engine):
    alone = [await collect(engine, request(prompt, 40)) for prompt in PROMPTS[:2]]
    with passes(engine.model) as log:
        with held(engine):
            stays = [asyncio.create_task(collect(engine, request(prompt, 40))) for prompt in PROMPTS[:2]]
            leaves = engine.generate(request(PROMPTS[2], 200), RequestTiming())
            first = asyncio.create_task(anext(leaves))
            await asyncio.sleep(0)
        await first
        await anext(leaves)
        await leaves.aclose()
        begun = len(log)  # the pass that runs now may hold the row, and one that was about to begin
        streams = await asyncio.gather(*stays)
    assert max(rows for rows, _ in log[:begun]) == 3
    assert len(log) > begun + 10
    assert max(rows for rows, _ in log[begun + 1 :]) == 2
    for steps, expected in zip(streams, alone, strict=True):
        assert tokens_of(steps) == tokens_of(expected)
        assert (scores_of(steps) - scores_of(expected)).abs().max() < 1e-4


async def test_a_client_that_leaves_while_it_waits_or_prefills_is_forgotten(folder):
    async with serving(folder, max_rows=1) as engine:
        engine._worker.prefill_tokens = 2
        runs = engine.generate(request(PROMPTS[0], 100), RequestTiming())
        await anext(runs)
        waits = asyncio.create_task(collect(engine, request(PROMPTS[1], 100)))
        await asyncio.sleep(0.02)
        waits.cancel()
        await runs.aclose()
        prefills = asyncio.create_task(collect(engine, request([7] * 150, 100)))
        while not engine.running:
            await asyncio.sleep(0.001)
        prefills.cancel()
        assert len(tokens_of(await collect(engine, request(PROMPTS[2], 5)))) == 5


async def test_memory_is_free_when_nobody_runs(engine):
    await collect_all(engine, [request(prompt, 6) for prompt in PROMPTS])
    while engine._worker._lanes:
        await asyncio.sleep(0.001)
    assert engine.running == 0
    assert engine._worker._admission is None
    assert engine._worker._teacher is None


async def test_a_slow_reader_holds_up_nobody(engine):
    slow = engine.generate(request(PROMPTS[0], 30), RequestTiming())
    steps = [await anext(slow)]
    await collect(engine, request(PROMPTS[1], 60))
    steps += [step async for step in slow]
    assert tokens_of(steps) == tokens_of(await collect(engine, request(PROMPTS[0], 30)))


async def test_a_long_prompt_is_fed_in_chunks_between_the_steps_of_others(engine):
    long = [at % 250 for at in range(200)]
    expected = await collect(engine, request(long, 5))
    engine._worker.prefill_tokens = 16
    with passes(engine.model) as log:
        runs = engine.generate(request(PROMPTS[0], 100), RequestTiming())
        await anext(runs)
        steps = await collect(engine, request(long, 5, alpha=1.0))
        await runs.aclose()
    chunks = [at for at, (_, columns) in enumerate(log) if columns > 1]
    assert max(columns for _, columns in log) == 16
    assert len(chunks) == 14
    assert all((1, 1) in log[before:after] for before, after in pairwise(chunks[1:]))
    assert tokens_of(steps) == tokens_of(expected)
    assert (scores_of(steps) - scores_of(expected)).abs().max() < 1e-4


async def test_running_requests_keep_the_heads_they_began_with(engine):
    first, second = random_bank(engine.model), random_bank(engine.model, n=11, n_heads=1, seed=5)
    wanted = request(PROMPTS[0], 60, alpha=0.5)
    runs = engine.generate(wanted, RequestTiming())
    before = [await anext(runs) for _ in range(3)]
    promised = engine.generate(request(PROMPTS[2], alpha=0.5), RequestTiming())  # made before the switch, read after
    await engine.load_heads(second)
    steps = await collect(engine, request(PROMPTS[1], alpha=0.5))
    rest = [step async for step in runs]
    check_stream(engine.model, first, wanted, before + rest)
    check_stream(engine.model, second, request(PROMPTS[1], alpha=0.5), steps)
    check_stream(engine.model, first, request(PROMPTS[2], alpha=0.5), [step async for step in promised])
