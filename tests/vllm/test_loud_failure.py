"""What cannot be scored rightly is refused or ends with an error; it never looks like a score."""

import asyncio
import math

import pytest
import pytest_asyncio

pytest.importorskip("vllm", reason="vLLM is not installed: see README, Engines")

from service.engines import vllm_core
from service.engines.base import EngineError, RequestTiming
from service.engines.vllm_plugin import tap_config
from tests.reference.engine_runs import collect, random_bank, request, tokens_of
from tests.vllm.runs import IN_CORE, check, collect_all, start

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

PROMPTS = [[5, 9, 33, 60, 4, 7, 71, 20, 11, 40, 41, 8], [8, 3], [90, 12, 6, 44, 21, 30, 77, 7, 8], [50]]


@pytest_asyncio.fixture(loop_scope="session")
async def engine(shelf):
    return await shelf.get(shelf.tiny("Llama"), arguments=IN_CORE)


async def test_the_runner_and_the_modes_of_this_vllm_are_supported(engine):
    """`check_runner` and `check_layer` have passed in the worker; nothing is left to the message of a failed start."""
    assert await engine._core._vllm.collective_rpc("witness_runner") == ["TappedCPUModelRunner"]


async def test_hazard_a_tap_that_does_not_run_leaves_the_numbers_of_an_earlier_step(engine):
    bank = engine._banks.current.bank
    wanted = [request(prompt, 12, wants_neurons=at == 2) for at, prompt in enumerate(PROMPTS)]
    layer = engine.checkpoint.blocks[1].module
    before = await collect_all(engine, wanted)
    await engine._core._vllm.collective_rpc("witness_untap", args=(layer,))
    without = await collect_all(engine, wanted)
    scored = await engine.score(PROMPTS[0], PROMPTS[2])
    await engine._core._vllm.collective_rpc("witness_retap")
    for one, steps, lost in zip(wanted, before, without, strict=True):
        check(engine, bank, one, steps)
        assert tokens_of(lost) == tokens_of(steps)
        assert all(math.isnan(score) for step in lost for score in step.row.scores)
    assert all(math.isnan(score) for row in scored.rows for score in row.scores)
    for one, steps in zip(wanted, await collect_all(engine, wanted), strict=True):
        check(engine, bank, one, steps)


async def test_hazard_workers_without_taps(shelf, engine, monkeypatch):
    """vLLM started without our worker class: heads are refused, and the tokens are those of alpha = 1 with taps."""
    guarded = engine
    wanted = [request(prompt, 24, is_scored=False) for prompt in PROMPTS]
    expected = [await collect(guarded, one) for one in wanted]
    scored = [await collect(guarded, request(prompt, 24)) for prompt in PROMPTS]
    await shelf.close()
    monkeypatch.setitem(vllm_core._WORKERS, "cpu", "vllm.v1.worker.cpu_worker.CPUWorker")
    engine = await start(shelf.tiny("Llama"), arguments=IN_CORE)
    try:
        with pytest.raises(EngineError, match="workers did not take the heads"):
            await engine.load_heads(random_bank(engine.checkpoint.skeleton))
        with pytest.raises(EngineError, match="no heads are loaded"):
            engine.generate(request([5]), RequestTiming())
        with pytest.raises(EngineError, match="no heads are loaded"):
            engine.generate(request([5], alpha=0.5, is_scored=False), RequestTiming())
        with pytest.raises(EngineError, match="no heads are loaded"):
            await engine.score([5], [6])
        for one, with_taps, with_rows in zip(wanted, expected, scored, strict=True):
            plain = await collect(engine, one)
            assert tokens_of(plain) == tokens_of(with_taps) == tokens_of(with_rows)
            for a, b, c in zip(plain, with_taps, with_rows, strict=False):
                if a.token is not None:
                    assert b.token == c.token  # to the last bit
                    assert b.token.logprob == pytest.approx(a.token.logprob, abs=1e-5)  # vLLM's own way of taking it
        await check_close(engine)
    finally:
        await engine.close()


async def check_close(engine):
    """Whoever waits is told, and whoever comes."""
    runs = engine.generate(request(PROMPTS[0], 230, is_scored=False), RequestTiming())
    await anext(runs)
    waits = asyncio.create_task(collect(engine, request(PROMPTS[1], 230, is_scored=False)))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await engine.close()
        with pytest.raises(EngineError):
            _ = [step async for step in runs]
        with pytest.raises(EngineError):
            await waits
        with pytest.raises(EngineError, match="not started"):
            engine.generate(request(PROMPTS[0]), RequestTiming())
        await engine.close()


async def test_hazard_front_end_and_workers_of_different_versions(shelf, monkeypatch, capfd):
    folder = shelf.tiny("Llama")
    await shelf.close()
    monkeypatch.setattr(tap_config.TapConfig, "additional_config", lambda self: {"hguard": {"protocol": 99}})
    with pytest.raises(EngineError, match="vLLM did not start"):
        await start(folder, arguments=IN_CORE)
    assert "speaks protocol 99" in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pipeline_parallel_size": 2}, "does not support pipeline_parallel_size > 1"),
        ({"logprobs_mode": "processed_logprobs"}, "does not support logprobs_mode other than raw_logprobs"),
        (
            {"kv_transfer_config": {"kv_connector": "OffloadingConnector", "kv_role": "kv_both"}},
            "does not support kv_transfer_config",
        ),
        ({"logits_processors": ["tests.vllm.witness.Witness"]}, "does not support logits_processors"),
        ({"scheduling_policy": "fcfs"}, "HGUARD_VLLM_ARGS sets scheduling_policy"),
    ],
)
async def test_hazard_a_mode_that_scores_wrongly_starts_or_is_refused_in_a_log(shelf, monkeypatch, arguments, words):
    """The words come from this process, before any other is started."""
    from vllm.v1.engine.async_llm import AsyncLLM

    monkeypatch.setattr(AsyncLLM, "from_vllm_config", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(EngineError, match=words):
        await start(shelf.tiny("Llama"), arguments=arguments)
