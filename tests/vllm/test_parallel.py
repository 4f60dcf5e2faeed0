"""Neurons spread over the ranks of tensor parallelism: every rank holds its own columns, h is whole on all of them."""

import asyncio

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: see README, Engines")

from service.engines.base import EngineError, HeadBank, RequestTiming
from tests.reference.engine_runs import collect, random_bank, request
from tests.vllm.runs import check, check_scored, collect_all, default_folder, prompts

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

PROMPTS = [[5, 9, 33, 60, 4, 7], [8, 3], [90, 12, 6, 44, 21, 30, 77], [50], [14, 15, 16, 17]]


async def run_mixed(engine, bank: HeadBank, questions: list[list[int]], n_tokens: int) -> None:
    alphas = (1.0, 0.0, 0.5, 3.0)
    wanted = [
        request(prompt, n_tokens, alpha=alphas[at % 4], wants_neurons=at % 3 == 1)
        for at, prompt in enumerate(questions)
    ]
    streams, scored = await asyncio.gather(
        collect_all(engine, wanted), engine.score(questions[0], questions[1], alpha=0.5, wants_neurons=True)
    )
    for one, steps in zip(wanted, streams, strict=True):
        check(engine, bank, one, steps)
    check_scored(engine, bank, questions[0], questions[1], scored, 0.5)


async def test_hazard_neurons_of_other_ranks_are_lost_or_counted_twice(shelf):
    """Nine heads over three ranks; 512 of a layer's 1536 neurons on each."""
    engine = await shelf.get(default_folder(), arguments={"tensor_parallel_size": 3, "max_model_len": 512})
    await run_mixed(engine, engine._banks.current.bank, prompts(engine), 8)
    edges = engine.checkpoint.widths
    flat = np.asarray([layer * 1536 + at for layer in (0, 7, 29) for at in (0, 511, 512, 1023, 1024, 1535)])
    bank = HeadBank(
        ("probe",),
        random_bank(engine.checkpoint.skeleton).neurons.from_flat(edges, flat),
        np.linspace(-1, 1, 18, dtype=np.float32)[None, :],
        np.arange(9, 18),
        "own",
    )
    await engine.load_heads(bank)
    wanted = request(prompts(engine)[1], 8, alpha=0.5, wants_neurons=True)
    check(engine, bank, wanted, await collect(engine, wanted))


async def test_two_ranks_of_a_tiny_llama(shelf):
    folder = shelf.tiny("Llama")
    engine = await shelf.get(folder, arguments={"tensor_parallel_size": 2})
    await run_mixed(engine, engine._banks.current.bank, PROMPTS, 20)


async def test_hazard_a_broken_pass_leaves_requests_waiting(shelf):
    engine = await shelf.get(shelf.tiny("Llama"), arguments={"tensor_parallel_size": 2})
    runs = engine.generate(request(PROMPTS[0], 200), RequestTiming())
    await anext(runs)
    waits = asyncio.create_task(collect(engine, request(PROMPTS[1], 200)))
    await engine._core._vllm.collective_rpc("witness_fail")
    async with asyncio.timeout(60):
        with pytest.raises(EngineError, match="vLLM failed"):
            _ = [step async for step in runs]
        with pytest.raises(EngineError, match="vLLM failed"):
            await waits
        with pytest.raises(EngineError, match="vLLM failed"):
            await collect(engine, request(PROMPTS[0]))
        with pytest.raises(EngineError, match="vLLM failed"):
            await engine.score(PROMPTS[0], PROMPTS[1])
        with pytest.raises(EngineError, match="did not take the heads"):
            await engine.load_heads(random_bank(engine.checkpoint.skeleton))
    assert engine.running == 0
    await shelf.close()


async def test_hazard_one_of_two_replicas_has_no_heads_or_old_ones(shelf):
    """Data parallelism: one queue before two copies of the model; heads are switched on both."""
    engine = await shelf.get(shelf.tiny("Llama"), arguments={"data_parallel_size": 2})
    for seed in (1, 2):
        bank = random_bank(engine.checkpoint.skeleton, n=60, seed=seed)
        await engine.load_heads(bank)
        await run_mixed(engine, bank, PROMPTS, 20)
        audited = await engine.audit(PROMPTS[0], PROMPTS[4])
        assert len(audited) == 2
        for copy in audited:
            check_scored(engine, bank, PROMPTS[0], PROMPTS[4], copy)
