import asyncio
import logging
from contextlib import aclosing
from itertools import pairwise

import pytest
import torch

from probes.sampling import SamplingParams
from service.engines.base import EngineError, RequestTiming, RequestTooLongError
from service.engines.fake import fake_tokenizer
from service.engines.teacher import TeacherForcing
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
from tests.reference.tiny_models import build_tiny

PROMPTS = [[5, 9, 33, 60, 4, 7, 71, 20, 11, 40, 41], [8, 3], [90, 12, 6, 44, 21, 30, 77], [50], [14, 15, 16, 17]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny-llama")
    build_tiny("Llama", vocab_size=257, bos_token_id=None, pad_token_id=None, eos_token_id=256).save_pretrained(place)
    fake_tokenizer().save_pretrained(place)
    return place


@pytest.fixture
async def engine(folder):
    async with serving(folder) as running:
        yield running


async def test_streamed_rows_and_signals_are_those_of_plain_passes(engine):
    bank = random_bank(engine.model)
    for alpha in (1.0, 0.5, 3.0, 0.0):
        wanted = request(PROMPTS[0], alpha=alpha)
        steps = await collect(engine, wanted)
        assert tokens_of(steps) == slow_greedy(engine.model, bank, PROMPTS[0], 12, alpha)
        check_stream(engine.model, bank, wanted, steps)


async def test_score_gives_the_rows_of_the_stream(engine):
    for prompt in PROMPTS:
        steps = await collect(engine, request(prompt, alpha=0.5))
        scored = await engine.score(prompt, tokens_of(steps), alpha=0.5)
        check_scored(engine.model, random_bank(engine.model), prompt, tokens_of(steps), scored, 0.5)
        found = torch.tensor([row.scores for row in scored.rows], dtype=torch.float64)
        assert (found - scores_of(steps)).abs().max() < 1e-4


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


async def test_seeded_sampling_repeats_itself_and_unseeded_does_not(engine):
    hot = SamplingParams(2.0)
    runs = [tokens_of(await collect(engine, request([5], 20, sampling=hot, seed=seed))) for seed in (3, 3, 4, -3)]
    assert runs[0] == runs[1]
    assert len({tuple(run) for run in runs}) == 3
    free = [tokens_of(await collect(engine, request([5], 20, sampling=hot))) for _ in range(2)]
    assert free[0] != free[1]


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


async def test_alpha_applies_to_every_chunk_of_a_prompt(engine):
    engine._worker.prefill_tokens = 4
    wanted = request(PROMPTS[0], 6, alpha=0.0)
    steps = await collect(engine, wanted)
    assert tokens_of(steps) == slow_greedy(engine.model, random_bank(engine.model), PROMPTS[0], 6, 0.0)
    check_stream(engine.model, random_bank(engine.model), wanted, steps)


def hook_counts(engine, log):
    return engine.model.register_forward_pre_hook(
        lambda model, _args: log.append(
            sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules() if m is not model)
        )
    )


async def test_without_scored_requests_the_model_has_no_hooks(engine):
    log = []
    with hook_counts(engine, log):
        steps = await collect(engine, request(PROMPTS[0], is_scored=False))
    assert set(log) == {0}
    assert all(step.row is None for step in steps)
    with hook_counts(engine, log):
        await collect(engine, request(PROMPTS[0]))
    assert max(log) > 0


async def test_the_hooks_are_off_the_model_when_nobody_runs(engine):
    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in engine.model.modules())

    await collect(engine, request(PROMPTS[0], alpha=0.5))
    for _ in range(1000):
        if not hooks():
            break
        await asyncio.sleep(0.001)
    assert not hooks()


async def test_guarded_logits_and_tokens_equal_unguarded_ones_bit_for_bit(engine):
    seen = []
    with engine.model.register_forward_hook(lambda _m, _args, output: seen.append(output.logits.clone())):
        guarded = await collect(engine, request(PROMPTS[0]))
        unguarded = await collect(engine, request(PROMPTS[0], is_scored=False))
    assert [step.token for step in guarded if step.token] == [step.token for step in unguarded if step.token]
    assert len(seen) == 13 + 12
    assert all(torch.equal(a, b) for a, b in zip(seen[:12], seen[13:], strict=True))


async def test_own_rule_feeds_the_last_token_once_more(folder):
    async with serving(folder) as engine:
        steps = await collect(engine, request(PROMPTS[0], 5))
        assert [step.finish_reason for step in steps] == [None] * 5 + ["length"]
        assert steps[-1].token is None
        assert len(scores_of(steps)) == 6
        unscored = await collect(engine, request(PROMPTS[0], 5, is_scored=False))
        assert [step.finish_reason for step in unscored] == [None] * 4 + ["length"]


async def test_predicting_rule_does_not(folder):
    async with serving(folder) as engine:
        await engine.load_heads(random_bank(engine.model, position="predicting"))
        steps = await collect(engine, request(PROMPTS[0], 5))
        assert [step.finish_reason for step in steps] == [None] * 4 + ["length"]
        assert len(scores_of(steps)) == len(tokens_of(steps)) == 5


@pytest.mark.parametrize("at", [0, 3])
async def test_end_of_sequence_gives_the_last_own_row_and_no_token(engine, at):
    tokens = tokens_of(await collect(engine, request(PROMPTS[0])))
    engine._worker.stop_ids = {tokens[at]}
    end = tokens.index(tokens[at])
    steps = await collect(engine, request(PROMPTS[0]))
    assert tokens_of(steps) == tokens[:end]
    assert steps[-1].finish_reason == "stop"
    assert len(scores_of(steps)) == end + 1


async def test_one_token_at_most(engine):
    steps = await collect(engine, request(PROMPTS[0], 1))
    assert (len(tokens_of(steps)), len(scores_of(steps))) == (1, 2)


async def test_neurons_are_carried_where_asked_for(engine):
    bank = random_bank(engine.model)
    steps, plain = await collect_all(engine, [request(PROMPTS[0], wants_neurons=True), request(PROMPTS[0])])
    assert all(step.row.neurons is None for step in plain)
    for step in steps:
        assert step.row.scores == pytest.approx((bank.weights @ step.row.neurons).tolist(), abs=1e-4)
    scored = await engine.score(PROMPTS[0], tokens_of(steps), wants_neurons=True)
    for row, step in zip(scored.rows, steps, strict=True):
        assert abs(row.neurons - step.row.neurons).max() < 1e-4


async def test_concurrent_score_requests_share_their_pass(engine):
    bank = random_bank(engine.model)
    cases = [(PROMPTS[at % 5], PROMPTS[(at + 2) % 5] * (1 + at % 3), (1.0, 0.5, 0.0)[at % 3]) for at in range(9)]
    with passes(engine.model) as log:
        with held(engine):
            tasks = [asyncio.create_task(engine.score(p, r, alpha=a, wants_neurons=a == 1)) for p, r, a in cases]
            await asyncio.sleep(0)
        scored = await asyncio.gather(*tasks)
    assert {rows for rows, _ in log} == {9}
    assert len(log) <= 3
    for (prompt, response, alpha), found in zip(cases, scored, strict=True):
        check_scored(engine.model, bank, prompt, response, found, alpha)
        assert all((row.neurons is not None) == (alpha == 1) for row in found.rows)


async def test_scores_do_not_depend_on_the_chunks(engine, monkeypatch):
    prompt, response = PROMPTS[0] * 3, [at % 250 for at in range(60)]
    whole = await engine.score(prompt, response)
    engine._worker.prefill_tokens = 7
    monkeypatch.setattr("service.engines.teacher._MAX_LOGITS", 257 * 5)
    with passes(engine.model) as log:
        chunked = await engine.score(prompt, response)
    assert max(columns for _, columns in log) == 7
    assert [columns for _, columns in log[-3:]] == [5, 5, 1]
    check_scored(engine.model, random_bank(engine.model), prompt, response, chunked)
    assert whole.rows[3].scores == pytest.approx(chunked.rows[3].scores, abs=1e-4)


async def test_an_empty_response_has_the_row_of_the_prompt(engine):
    scored = await engine.score(PROMPTS[0], [])
    assert (len(scored.rows), len(scored.tokens)) == (1, 0)


async def test_generation_goes_on_beside_a_long_score_request(engine):
    engine._worker.prefill_tokens = 8
    with passes(engine.model) as log:
        runs = engine.generate(request(PROMPTS[0], 200), RequestTiming())
        await anext(runs)
        await engine.score(PROMPTS[0], [9] * 100)
        await runs.aclose()
    chunks = [at for at, (_, columns) in enumerate(log) if columns > 1]
    assert all(after - before == 2 for before, after in pairwise(chunks[1:]))


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


async def test_timing_is_filled(engine):
    timing = RequestTiming()
    with held(engine):
        task = asyncio.create_task(collect(engine, request(PROMPTS[0]), timing))
        await asyncio.sleep(0.05)
    await task
    assert timing.queue_seconds > 0.04
    assert timing.prefill_seconds > 0
    assert timing.decode_seconds > timing.scoring_seconds > 0


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
    with pytest.raises(EngineError, match="bookkeeping"):
        await collect(engine, request([5]))
    with pytest.raises(EngineError, match="closed"):
        await collect(engine, request([5]))
    assert "no request will be served" in caplog.text


async def test_an_engine_that_was_not_started_says_so(folder, engine):
    other = type(engine)(folder, model_name="tiny")
    with pytest.raises(EngineError, match="not started"):
        other.generate(request([5]), RequestTiming())
    await other.close()


def test_padding_of_targets_is_the_next_token(folder):
    """Column by column: what each scored row predicts."""
    from service.engines.heads import LoadedHeads
    from service.engines.teacher import ScoreJob

    model = build_tiny("Llama")
    heads = LoadedHeads.load(model, random_bank(model))
    forced = TeacherForcing(model, [ScoreJob((1, 2), (3, 4, 5), heads), ScoreJob((6, 7, 8), (9,), heads)])
    assert forced._targets.tolist() == [[3, 4, 5, 0], [0, 0, 9, 0]]
