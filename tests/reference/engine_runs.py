"""Runs on a transformers engine that its tests share: banks, collected streams, a log of the model's passes."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from probes.architectures import layer_widths
from probes.neurons import NeuronSet
from service.engines.base import EngineRequest, EvidenceStep, HeadBank, RequestTiming, ResidualHeads, ScoredSequence
from service.engines.transformers_engine import TransformersEngine
from tests.reference.slow_engine import slow_evidence

PROMPTS = [[5, 9, 33, 60, 4, 7, 71, 20, 11, 40, 41], [8, 3], [90, 12, 6, 44, 21, 30, 77], [50], [14, 15, 16, 17]]


def random_bank(model: nn.Module, *, n: int = 30, n_heads: int = 2, position: Any = "own", seed: int = 0) -> HeadBank:
    """Random neurons and weights; about half of them are H-neurons. The last head reads the residual stream too."""
    random = np.random.default_rng(seed)
    widths = layer_widths(model)
    neurons = NeuronSet.from_flat(widths, random.choice(sum(widths), size=n, replace=False))
    weights = random.normal(size=(n_heads, n)).astype(np.float32)
    names = ("probe", *(f"shadow-{at}" for at in range(1, n_heads)))
    config: Any = model.config
    stream = np.zeros((n_heads, config.get_text_config().hidden_size), dtype=np.float32)
    stream[-1] = 0.01 * random.normal(size=stream.shape[1])  # single numbers of the stream are in the hundreds
    residual = ResidualHeads(len(widths) * 3 // 5, stream)  # the shipped probe reads the same
    return HeadBank(names, neurons, weights, np.flatnonzero(weights[0] > 0), position, residual)


@asynccontextmanager
async def serving(folder: Path, *, bank: HeadBank | None = None, **options: Any) -> AsyncIterator[TransformersEngine]:
    """A started engine with loaded heads."""
    engine = TransformersEngine(folder, model_name="tiny", **options)
    await engine.start()
    try:
        await engine.load_heads(bank or random_bank(engine.model))
        yield engine
    finally:
        await engine.close()


def request(prompt: list[int], max_tokens: int = 12, **fields: Any) -> EngineRequest:
    return EngineRequest("r", tuple(prompt), max_tokens, **fields)


async def collect(
    engine: TransformersEngine, wanted: EngineRequest, timing: RequestTiming | None = None
) -> list[EvidenceStep]:
    async with aclosing(engine.generate(wanted, timing or RequestTiming())) as steps:
        return [step async for step in steps]


async def collect_all(engine: TransformersEngine, wanted: list[EngineRequest]) -> list[list[EvidenceStep]]:
    """All requests at once: the worker waits until every one of them is submitted."""
    with held(engine):
        tasks = [asyncio.create_task(collect(engine, one)) for one in wanted]
        await asyncio.sleep(0)
    return await asyncio.gather(*tasks)


@contextmanager
def held(engine: TransformersEngine) -> Iterator[None]:
    """Keep the worker from its next turn."""
    gate = threading.Event()
    engine._worker.call(gate.wait)
    try:
        yield
    finally:
        gate.set()


@contextmanager
def passes(model: nn.Module) -> Iterator[list[tuple[int, int]]]:
    """(rows, columns) of every forward pass."""
    log: list[tuple[int, int]] = []
    handle = model.register_forward_pre_hook(
        lambda _m, _args, kwargs: log.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        yield log
    finally:
        handle.remove()


def tokens_of(steps: list[EvidenceStep]) -> list[int]:
    return [step.token.token_id for step in steps if step.token is not None]


def scores_of(steps: list[EvidenceStep]) -> torch.Tensor:
    return torch.tensor([step.row.scores for step in steps if step.row is not None], dtype=torch.float64)


def check_stream(model: nn.Module, bank: HeadBank, wanted: EngineRequest, steps: list[EvidenceStep]) -> None:
    """Rows and free signals of a stream are those of plain passes, to 1e-4."""
    tokens = tokens_of(steps)
    slow = slow_evidence(model, bank, list(wanted.prompt_ids), tokens, wanted.alpha)
    scores = scores_of(steps)
    assert (scores - slow.scores[: len(scores)]).abs().max() < 1e-4
    _check_signals([step.token for step in steps if step.token is not None], slow)


def check_scored(
    model: nn.Module, bank: HeadBank, prompt: list[int], response: list[int], scored: ScoredSequence, alpha: float = 1.0
) -> None:
    """The same of a teacher-forced response."""
    slow = slow_evidence(model, bank, prompt, response, alpha)
    assert len(scored.rows) == len(response) + 1
    assert [token.token_id for token in scored.tokens] == response
    found = torch.tensor([row.scores for row in scored.rows], dtype=torch.float64)
    assert (found - slow.scores).abs().max() < 1e-4
    _check_signals(scored.tokens, slow)


def _check_signals(tokens: Any, slow: Any) -> None:
    if tokens:
        assert (torch.tensor([token.logprob for token in tokens]) - slow.logprobs).abs().max() < 1e-4
        assert (torch.tensor([token.entropy for token in tokens]) - slow.entropies).abs().max() < 1e-4
