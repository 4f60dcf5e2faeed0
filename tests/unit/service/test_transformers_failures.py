"""Passes, taps and workers of the transformers engine that fail, and requests that it refuses."""

import asyncio
import logging

import pytest

from service.engines.base import EngineError, RequestTiming, RequestTooLongError
from tests.reference.engine_runs import (
    PROMPTS,
    check_stream,
    collect,
    collect_all,
    random_bank,
    request,
    scores_of,
    serving,
    tokens_of,
)
from tests.reference.tiny_models import build_tiny


async def test_heads_of_another_model_are_refused_and_the_old_ones_stay(engine):
    with pytest.raises(ValueError, match="layer widths"):
        await engine.load_heads(random_bank(build_tiny("Mixtral")))
    assert len(scores_of(await collect(engine, request(PROMPTS[0])))) == 13


async def test_hazard_tap_that_does_not_run_gives_no_row_and_the_tokens_go_on(engine, caplog):
    expected = tokens_of(await collect(engine, request(PROMPTS[0])))
    layer = engine.model.model.layers[1]
    tapped = layer.mlp
    layer.mlp = build_tiny("Llama", vocab_size=257).model.layers[1].mlp  # the same weights in another module
    with caplog.at_level(logging.ERROR):
        steps, unscored = await collect_all(engine, [request(PROMPTS[0]), request(PROMPTS[0], is_scored=False)])
    assert all(step.row is None for step in steps)
    assert tokens_of(steps) == tokens_of(unscored) == expected
    assert "scores of 2 rows are missing" in caplog.text
    with pytest.raises(EngineError, match=r"alpha 0\.5 was not applied"):
        await collect(engine, request(PROMPTS[0], alpha=0.5, is_scored=False))
    engine._worker.prefill_tokens = 4
    with pytest.raises(EngineError, match="TapError"):
        await collect(engine, request(PROMPTS[0], alpha=0.5))
    with pytest.raises(EngineError, match="taps ran"):
        await engine.score(PROMPTS[0], expected)
    layer.mlp = tapped
    assert len(scores_of(await collect(engine, request(PROMPTS[0])))) == 13


async def test_hazard_a_failed_prefill_ends_its_requests_and_no_others(engine, caplog):
    def fail_on_99(_model, _args, kwargs):
        if (kwargs["input_ids"] == 99).any():
            raise MemoryError("no room")

    runs = engine.generate(request(PROMPTS[0], 60), RequestTiming())
    steps = [await anext(runs)]
    with engine.model.register_forward_pre_hook(fail_on_99, with_kwargs=True):
        with pytest.raises(EngineError, match="MemoryError: no room"):
            await collect(engine, request([4, 99]))
        with pytest.raises(EngineError, match="MemoryError: no room"):
            await engine.score([4, 99], [5])
    steps += [step async for step in runs]
    check_stream(engine.model, random_bank(engine.model), request(PROMPTS[0]), steps)
    assert "no room" in caplog.text


async def test_hazard_a_failed_step_ends_its_batch_and_the_engine_serves_on(engine):
    expected = tokens_of(await collect(engine, request(PROMPTS[0])))
    calls = []

    def fail_once(_model, _args, kwargs):
        calls.append(kwargs["input_ids"].shape[1])
        if len(calls) == 4:
            raise RuntimeError("a bad step")

    with engine.model.register_forward_pre_hook(fail_once, with_kwargs=True):
        results = await asyncio.gather(
            *(collect(engine, request(prompt, 30)) for prompt in PROMPTS[:3]), return_exceptions=True
        )
    assert any(isinstance(result, EngineError) and "a bad step" in str(result) for result in results)
    assert tokens_of(await collect(engine, request(PROMPTS[0]))) == expected


async def test_requests_that_cannot_run_are_refused_at_once(engine):
    timing = RequestTiming()
    with pytest.raises(RequestTooLongError, match=r"250 tokens and 7 to generate are more than the 256 of tiny"):
        engine.generate(request([5] * 250, 7), timing)
    with pytest.raises(RequestTooLongError):
        await engine.score([5] * 200, [6] * 57)
    with pytest.raises(ValueError, match="empty"):
        engine.generate(request([]), timing)
    with pytest.raises(ValueError, match="vocabulary of 257"):
        engine.generate(request([5, 257]), timing)
    with pytest.raises(ValueError, match="max_tokens"):
        engine.generate(request([5], 0), timing)
    assert len(tokens_of(await collect(engine, request([5] * 250, 6)))) == 6


async def test_without_heads_nothing_is_scored_in_silence(folder):
    async with serving(folder) as engine:
        engine._heads = None
        for wanted in (request([5]), request([5], is_scored=False, alpha=0.5)):
            with pytest.raises(EngineError, match="no heads"):
                engine.generate(wanted, RequestTiming())
        with pytest.raises(EngineError, match="no heads"):
            await engine.score([5], [6])
        assert len(tokens_of(await collect(engine, request([5], is_scored=False)))) == 12


async def test_close_ends_what_runs_and_what_waits_and_refuses_what_comes(folder):
    async with serving(folder, max_rows=1) as engine:
        runs = asyncio.create_task(collect(engine, request(PROMPTS[0], 200)))
        waits = asyncio.create_task(collect(engine, request(PROMPTS[1], 200)))
        while not engine.running:
            await asyncio.sleep(0.001)
        await engine.close()
        results = await asyncio.gather(runs, waits, return_exceptions=True)
        assert [type(result) for result in results] == [EngineError, EngineError]
        bank = random_bank(engine.model)
        for attempt in (collect(engine, request([5])), engine.score([5], [6]), engine.load_heads(bank)):
            with pytest.raises(EngineError, match="closed"):
                await attempt


async def test_hazard_a_worker_that_dies_leaves_nobody_waiting(engine, monkeypatch, caplog):
    def break_down(*_):
        raise KeyError("bookkeeping")

    monkeypatch.setattr(engine._worker, "_next_sequences", break_down)
    with pytest.raises(EngineError, match=r"bookkeeping|closed"):  # closed: it died before the request was handed over
        await collect(engine, request([5]))
    with pytest.raises(EngineError, match="closed"):
        await collect(engine, request([5]))
    assert "no request will be served" in caplog.text


async def test_an_engine_that_was_not_started_says_so(folder, engine):
    other = type(engine)(folder, model_name="tiny")
    with pytest.raises(EngineError, match="not started"):
        other.generate(request([5]), RequestTiming())
    await other.close()
