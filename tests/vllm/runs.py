"""Runs on vLLM engines that tests share, and their comparison with plain passes of the same checkpoint."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probes.models import DEFAULT_MODEL, resolve_model
from probes.prompts import encode_prompt
from service.engines.base import EngineRequest, EvidenceStep, HeadBank, ScoredSequence
from service.engines.fake import fake_tokenizer
from service.engines.vllm_engine import VllmEngine
from tests.reference.engine_runs import collect, random_bank, scores_of, tokens_of
from tests.reference.slow_engine import SlowEvidence, slow_evidence
from tests.reference.tiny_models import build_tiny

TOLERANCE = 5e-4
GPU_TOLERANCE = 1e-2
"""Of float32 on CUDA, where vLLM's attention kernels multiply in tf32. Not yet measured: to be cut to what is."""
IN_CORE = {"distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor"}
"""The worker in the process of vLLM's core, where it needs no process of its own: starts in half the time."""
QUESTIONS = (
    "What is the capital of France?",
    "Who wrote the novel Middlemarch? Respond with the answer only, without any explanation.",
    "Name the chemical element with the symbol Fe, and say in one sentence what it is used for.",
    "In which country is the river Ebro?",
    "What is 12 times 12?",
    "Count from one to thirty in words, and then say which of these numbers are divisible by seven.",
)
worst: dict[str, float] = {}
"""Largest departure of each kind of number that a check has seen; the terminal summary shows it."""


class Shelf:
    """Keeps the last engine that was asked for; starts and stops engines, one at a time."""

    def __init__(self, folder: Path, **options: Any) -> None:
        """Options and arguments are those of every engine that is not asked for with others."""
        self._folder, self._options = folder, options
        self._tiny: dict[str, Path] = {}
        self._key = ""
        self._engine: VllmEngine | None = None

    def tiny(self, name: str, **changes: Any) -> Path:
        """Folder of a tiny random model with the tokenizer of the 256 bytes."""
        key = json.dumps([name, changes], sort_keys=True)
        if key not in self._tiny:
            self._tiny[key] = place = self._folder / f"{name}-{len(self._tiny)}"
            sizes = {"vocab_size": 257, "bos_token_id": None, "pad_token_id": None, "eos_token_id": 256}
            sizes |= {"hidden_size": 128, "head_dim": 32}  # the smallest head that vLLM has a kernel for
            build_tiny(name, **{**sizes, **changes}).save_pretrained(place)
            fake_tokenizer().save_pretrained(place)
        return self._tiny[key]

    async def get(self, folder: Path, *, bank: HeadBank | None = None, **options: Any) -> VllmEngine:
        """A started engine in float32 with this bank, or a random one. Options are `VllmEngine`'s; arguments vLLM's."""
        arguments = {**self._options.get("arguments", {}), **options.get("arguments", {})}
        options = {**self._options, **options, "arguments": arguments}
        key = json.dumps([str(folder), options], sort_keys=True)
        if key != self._key:
            await self.close()
            self._engine, self._key = await start(folder, **options), key
        assert self._engine is not None
        await self._engine.load_heads(bank or random_bank(self._engine.checkpoint.skeleton, n=100))
        return self._engine

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.close()
        self._engine, self._key = None, ""


async def start(
    folder: Path,
    *,
    arguments: dict[str, Any] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    **options: Any,
) -> VllmEngine:
    """An engine that a witness watches, eager unless the arguments say otherwise."""
    known = {"enforce_eager": True, "worker_extension_cls": "tests.vllm.witness.Witness", **(arguments or {})}
    known = deepcopy(known)  # vLLM writes into what it is given
    engine = VllmEngine(folder, model_name="tiny", dtype=dtype, device=device, arguments=known, **options)
    with pytest.MonkeyPatch.context() as environment:
        # Threads that are bound to cores spin while they wait for each other: ten times slower on a busy machine.
        environment.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        environment.setenv("OMP_NUM_THREADS", "1")
        await engine.start(random_bank(engine.checkpoint.skeleton))
    return engine


def tolerance(engine: VllmEngine) -> float:
    """Largest departure from plain passes on the CPU that rounding explains."""
    return TOLERANCE if engine.device == "cpu" else GPU_TOLERANCE


def default_folder() -> Path:
    return resolve_model(DEFAULT_MODEL)


@cache
def reference(folder: Path) -> nn.Module:
    """The checkpoint in plain transformers, float32."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # as below: vLLM's workers need the cores
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    return model


def prompts(engine: VllmEngine, before: str = "") -> list[list[int]]:
    """Token ids of the questions; no other test's prompts begin with the same `before`."""
    return [encode_prompt(engine.tokenizer, before + question) for question in QUESTIONS]


async def collect_all(engine: VllmEngine, wanted: Sequence[EngineRequest]) -> list[list[EvidenceStep]]:
    return list(await asyncio.gather(*(collect(engine, one) for one in wanted)))


@contextmanager
def recorded(engine: VllmEngine) -> Iterator[list[Any]]:
    """vLLM's own outputs of the requests that begin meanwhile."""
    outputs: list[Any] = []
    generate = engine._core._vllm.generate

    async def recording(*args: Any, **options: Any) -> AsyncIterator[Any]:
        async for output in generate(*args, **options):
            outputs.append(output)
            yield output

    engine._core._vllm.generate = recording
    try:
        yield outputs
    finally:
        engine._core._vllm.generate = generate


@asynccontextmanager
async def watched(engine: VllmEngine) -> AsyncIterator[dict[str, int]]:
    """What the scheduler did meanwhile, see `Witness`; filled at the end."""
    await engine._core._vllm.collective_rpc("witness_watch")
    counts: dict[str, int] = {}
    yield counts
    counts.update((await engine._core._vllm.collective_rpc("witness_counted"))[0])


def check(engine: VllmEngine, bank: HeadBank, wanted: EngineRequest, steps: list[EvidenceStep]) -> float:
    """A stream has the steps that its end calls for, and the numbers of plain passes.

    Returns:
        The largest departure of a score.
    """
    tokens = tokens_of(steps)
    ends = [step.finish_reason for step in steps]
    assert ends[:-1] == [None] * (len(steps) - 1)
    assert ends[-1] == ("length" if len(tokens) == wanted.max_tokens else "stop")
    n_rows = len(tokens) + (ends[-1] == "stop" or (bank.position == "own" and wanted.is_scored))
    assert len(steps) == n_rows
    assert all((step.row is not None) == wanted.is_scored for step in steps)
    slow = slow_evidence(reference(engine.checkpoint.folder), bank, list(wanted.prompt_ids), tokens, wanted.alpha)
    most = tolerance(engine)
    _check_tokens([step.token for step in steps if step.token], slow, most, is_greedy=wanted.sampling.temperature == 0)
    if not wanted.is_scored:
        return 0.0
    if wanted.wants_neurons:
        found = torch.stack([torch.from_numpy(step.row.neurons) for step in steps if step.row])
        _close("CETT", found, slow.cett, most)
    return _close("score", scores_of(steps), slow.scores, most)


def check_scored(
    engine: VllmEngine,
    bank: HeadBank,
    prompt: list[int],
    response: list[int],
    scored: ScoredSequence,
    alpha: float = 1.0,
) -> None:
    """The same of a teacher-forced response; its CETT too, where it has it."""
    slow = slow_evidence(reference(engine.checkpoint.folder), bank, prompt, response, alpha)
    assert len(scored.rows) == len(response) + 1
    assert [token.token_id for token in scored.tokens] == response
    most = tolerance(engine)
    _check_tokens(scored.tokens, slow, most, is_greedy=False)
    _close("score", torch.tensor([row.scores for row in scored.rows], dtype=torch.float64), slow.scores, most)
    if scored.rows[0].neurons is not None:
        _close("CETT", torch.stack([torch.from_numpy(row.neurons) for row in scored.rows]), slow.cett, most)


def _check_tokens(tokens: Any, slow: SlowEvidence, most: float, *, is_greedy: bool) -> None:
    if not tokens:
        return
    _close("log-probability", torch.tensor([token.logprob for token in tokens]), slow.logprobs, most)
    _close("entropy", torch.tensor([token.entropy for token in tokens]), slow.entropies, most)
    if is_greedy:  # the likeliest token, but for ties
        assert (slow.best - slow.logprobs).max() < most


def _close(kind: str, found: Tensor, expected: Tensor, most: float) -> float:
    departure = float((found - expected[: len(found)]).abs().max())
    worst[kind] = max(worst.get(kind, 0.0), departure)
    assert departure < most, f"{kind} departs by {departure}"
    return departure
