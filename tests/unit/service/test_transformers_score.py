"""Responses that exist, scored by the transformers engine: shared passes, chunks, and generation beside them."""

import asyncio
import threading
from itertools import pairwise

import pytest
import torch

from service.engines.base import RequestTiming
from service.engines.teacher import TeacherForcing
from tests.reference.engine_runs import (
    PROMPTS,
    check_scored,
    collect,
    held,
    passes,
    random_bank,
    request,
    scores_of,
    tokens_of,
)
from tests.reference.tiny_models import build_tiny


async def test_score_gives_the_rows_of_the_stream(engine):
    for prompt in PROMPTS:
        steps = await collect(engine, request(prompt, alpha=0.5))
        scored = await engine.score(prompt, tokens_of(steps), alpha=0.5)
        check_scored(engine.model, random_bank(engine.model), prompt, tokens_of(steps), scored, 0.5)
        found = torch.tensor([row.scores for row in scored.rows], dtype=torch.float64)
        assert (found - scores_of(steps)).abs().max() < 1e-4


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
        is_queued = threading.Event()
        engine._worker.call(is_queued.wait)  # else a slow thread here lets the generation end before
        scored = asyncio.ensure_future(engine.score(PROMPTS[0], [9] * 100))
        await asyncio.sleep(0)
        is_queued.set()
        await scored
        await runs.aclose()
    chunks = [at for at, (_, columns) in enumerate(log) if columns > 1][2:]  # after the prompt's two
    assert len(chunks) > 10
    assert all(after - before == 2 for before, after in pairwise(chunks))


def test_padding_of_targets_is_the_next_token(folder):
    """Column by column: what each scored row predicts."""
    from service.engines.heads import LoadedHeads
    from service.engines.teacher import ScoreJob

    model = build_tiny("Llama")
    heads = LoadedHeads.load(model, random_bank(model))
    forced = TeacherForcing(model, [ScoreJob((1, 2), (3, 4, 5), heads), ScoreJob((6, 7, 8), (9,), heads)])
    assert forced._targets.tolist() == [[3, 4, 5, 0], [0, 0, 9, 0]]
