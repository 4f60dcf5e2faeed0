"""The taps inside vLLM's compiled graph; the other files run without compilation, which starts sooner."""

import asyncio
from dataclasses import replace

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: see README, Engines")

from tests.reference.engine_runs import collect, random_bank, request
from tests.vllm.runs import check, check_scored, collect_all, default_folder, prompts

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

ALPHAS = (1.0, 0.0, 0.5, 3.0)


async def test_hazard_the_compiled_graph_knows_no_taps_or_old_ones(shelf):
    """In one engine, because it takes minutes to start: several alphas, then none, then other heads."""
    engine = await shelf.get(default_folder(), arguments={"enforce_eager": False, "block_size": 32})
    bank = engine._banks.current.bank
    questions = prompts(engine)
    wanted = [
        request(prompt, 8 + at, alpha=ALPHAS[at % 4], wants_neurons=at == 1, is_scored=at != 4)
        for at, prompt in enumerate(questions)
    ]
    streams, scored = await asyncio.gather(
        collect_all(engine, wanted), engine.score(questions[3], questions[1], alpha=0.5, wants_neurons=True)
    )
    compiled = await what_is_compiled(engine)
    assert compiled[0]["mode"] != "NONE"
    assert compiled[0]["frames"]
    for one, steps in zip(wanted, streams, strict=True):
        check(engine, bank, one, steps)
    check_scored(engine, bank, questions[3], questions[1], scored, 0.5)
    plain = request(questions[0], 10)  # the row buffers must say 1 again
    check(engine, bank, plain, await collect(engine, plain))
    half = [replace(one, alpha=0.5, is_scored=True) for one in wanted]
    for rows in (half, half[:1], [plain], [replace(one, alpha=1.0) for one in half]):  # few rows between many
        for one, steps in zip(rows, await collect_all(engine, rows), strict=True):
            check(engine, bank, one, steps)
    other = random_bank(engine.checkpoint.skeleton, n=80, seed=9)
    runs = asyncio.create_task(collect(engine, request(questions[5], 40, alpha=0.0)))
    await asyncio.sleep(0.2)
    await engine.load_heads(other)
    after = request(questions[2], 10, alpha=0.5)
    check(engine, other, after, await collect(engine, after))
    check(engine, bank, request(questions[5], 40, alpha=0.0), await runs)
    assert await what_is_compiled(engine) == compiled, "neither other heads nor other alphas compile anything"
    await check_scales_by_buffer(engine)
    assert await what_is_compiled(engine) == compiled


async def what_is_compiled(engine):
    """Of each worker."""
    return await engine._core._vllm.collective_rpc("witness_compiled")


async def check_scales_by_buffer(engine):
    """The taps are in the graph: it scales by what the row buffer says, also where eager passes would not look."""
    loaded = engine._banks.current
    wanted = request([31 * at + 900 for at in range(20)], 8)  # in nobody's prefix cache
    await collect(engine, request([7, 8, 9], 1))  # the step after a scaled one sets the buffer back
    await engine._core._vllm.collective_rpc("witness_scale", args=(0.0, loaded.number))
    steps = await collect(engine, wanted)
    await engine._core._vllm.collective_rpc("witness_scale", args=(1.0, loaded.number))
    check(engine, loaded.bank, replace(wanted, alpha=0.0), steps)
