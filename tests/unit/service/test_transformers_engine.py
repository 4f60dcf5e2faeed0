"""What one request to the transformers engine gets, beside plain passes: rows, signals, tokens, hooks."""

import asyncio

import pytest
import torch

from probes.sampling import SamplingParams
from service.engines.base import RequestTiming
from tests.reference.engine_runs import (
    PROMPTS,
    check_stream,
    collect,
    collect_all,
    held,
    random_bank,
    request,
    scores_of,
    serving,
    tokens_of,
)
from tests.reference.slow_engine import slow_greedy


async def test_streamed_rows_and_signals_are_those_of_plain_passes(engine):
    bank = random_bank(engine.model)
    for alpha in (1.0, 0.5, 3.0, 0.0):
        wanted = request(PROMPTS[0], alpha=alpha)
        steps = await collect(engine, wanted)
        assert tokens_of(steps) == slow_greedy(engine.model, bank, PROMPTS[0], 12, alpha)
        check_stream(engine.model, bank, wanted, steps)


async def test_seeded_sampling_repeats_itself_and_unseeded_does_not(engine):
    hot = SamplingParams(2.0)
    runs = [tokens_of(await collect(engine, request([5], 20, sampling=hot, seed=seed))) for seed in (3, 3, 4, -3)]
    assert runs[0] == runs[1]
    assert len({tuple(run) for run in runs}) == 3
    free = [tokens_of(await collect(engine, request([5], 20, sampling=hot))) for _ in range(2)]
    assert free[0] != free[1]


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
        assert step.row.scores[0] == pytest.approx(bank.weights[0] @ step.row.neurons, abs=1e-4)
    scored = await engine.score(PROMPTS[0], tokens_of(steps), wants_neurons=True)
    for row, step in zip(scored.rows, steps, strict=True):
        assert abs(row.neurons - step.row.neurons).max() < 1e-4


async def test_timing_is_filled(engine):
    timing = RequestTiming()
    with held(engine):
        task = asyncio.create_task(collect(engine, request(PROMPTS[0]), timing))
        await asyncio.sleep(0.05)
    await task
    assert timing.queue_seconds > 0.04
    assert timing.prefill_seconds > 0
    assert timing.decode_seconds > timing.scoring_seconds > 0
