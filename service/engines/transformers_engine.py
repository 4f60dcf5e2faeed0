"""The transformers engine: any supported Hugging Face model, continuous batching, on a CPU or a GPU.

The event loop's side: checks requests, passes them to the worker thread and evidence back. The model runs in
`service.engines.batch_loop`. ARCHITECTURE.md says why that loop is ours and not transformers' own.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probes.decoding import stop_token_ids
from probes.fingerprint import ModelFingerprint, fingerprint_model
from probes.models import load_model, load_tokenizer
from probes.neurons import NeuronSet
from probes.tap import HeadTap
from service.engines.base import (
    EngineError,
    EngineRequest,
    EvidenceStep,
    HeadBank,
    Heads,
    RequestTiming,
    ScoredSequence,
)
from service.engines.batch_loop import BatchLoop
from service.engines.heads import LoadedHeads
from service.engines.limits import check_ids
from service.engines.sequence import Delivery, RunningSequence
from service.engines.teacher import ScoreJob

_PREFILL_TOKENS = {"cpu": 256, "cuda": 2048}
"""Prompt tokens that are fed between two steps: about what keeps running rows waiting no longer than a few steps."""


class TransformersEngine:
    """Serves one model; implements `service.engines.base.Engine`."""

    kind = "transformers"

    def __init__(
        self, model_folder: Path, *, model_name: str, dtype: str = "auto", device: str = "auto", max_rows: int = 16
    ) -> None:
        """Load the model; takes seconds to minutes. `start` serves it.

        Args:
            model_folder: What `probes.models.resolve_model` returned.
            model_name: What clients call the model.
            dtype: See `probes.models.load_model`.
            device: See `probes.models.load_model`.
            max_rows: Sequences that run together; more wait.
        """
        self.model = load_model(model_folder, dtype=dtype, device=device)
        self.tokenizer = load_tokenizer(model_folder)
        self.model_name = model_name
        parameter = next(self.model.parameters())
        self.stop_token_ids = stop_token_ids(self.model, self.tokenizer)
        config: Any = self.model.config
        self.max_model_len = int(config.get_text_config().max_position_embeddings)
        self.dtype = str(parameter.dtype).removeprefix("torch.")
        self.device = str(parameter.device)
        self._vocabulary = int(config.get_text_config().vocab_size)
        self._heads: LoadedHeads | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker = BatchLoop(
            self.model,
            stop_ids=self.stop_token_ids,
            max_rows=max_rows,
            prefill_tokens=_PREFILL_TOKENS.get(parameter.device.type, 256),
            post=self._post,
        )
        self._thread = threading.Thread(target=self._worker.run, name="hguard-engine", daemon=True)

    @property
    def running(self) -> int:
        """Sequences that hold a row."""
        return self._worker.n_running

    def fingerprint(self, name: str = "") -> ModelFingerprint:
        """What identifies the model to a probe."""
        return fingerprint_model(self.model, self.tokenizer, name=name)

    @torch.inference_mode()  # norms are numbers here, not a graph
    def column_norms(self, neurons: NeuronSet) -> NDArray[np.float32]:
        """norm(W_down[:, j]) of these neurons, from the loaded weights [K]."""
        norms: NDArray[np.float32] = HeadTap(self.model, neurons).norms.float().cpu().numpy()
        return norms

    async def start(self, expected: HeadBank | None = None) -> None:  # noqa: ARG002 - any heads fit at any time
        """Begin to serve."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """Stop; running requests end with EngineError."""
        self._worker.close()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    async def load_heads(self, bank: HeadBank, *, is_default: bool = True) -> Heads:
        """Load heads beside those in use; requests that run keep the heads they began with.

        Raises:
            ValueError: The bank is not of this model.
        """
        self._check_started()
        heads = await asyncio.wrap_future(self._worker.call(lambda: LoadedHeads.load(self.model, bank)))
        if is_default:
            self._heads = heads
        return heads

    def hold_heads(self, heads: Heads) -> AbstractContextManager[None]:  # noqa: ARG002 - there is room for all
        """Nothing to do: whoever has the heads keeps them."""
        return nullcontext()

    def generate(self, request: EngineRequest, timing: RequestTiming) -> AsyncGenerator[EvidenceStep, None]:
        """Generate one sequence, a step at a time, under the heads that it names.

        Raises:
            RequestTooLongError: At once, before the first step.
            EngineError: The engine failed.
        """
        self._check_started()
        check_ids(self, self._vocabulary, request.prompt_ids, request.max_tokens)
        if request.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")
        heads = self._pick(request.heads)
        if heads is None and (request.is_scored or request.alpha != 1):
            raise EngineError("no heads are loaded: the request can be neither scored nor suppressed")
        return self._steps(RunningSequence(request, timing, heads))

    async def score(
        self,
        prompt_ids: Sequence[int],
        response_ids: Sequence[int],
        *,
        alpha: float = 1.0,
        wants_neurons: bool = False,
        heads: Heads | None = None,
    ) -> ScoredSequence:
        """One teacher-forced pass over prompt and response.

        Raises:
            RequestTooLongError: They do not fit the model.
            EngineError: The engine failed, or its tap did not run.
        """
        self._check_started()
        check_ids(self, self._vocabulary, [*prompt_ids, *response_ids])
        if not prompt_ids:
            raise ValueError("the prompt is empty: there is no row that predicts the first token")
        loaded = self._pick(heads)
        if loaded is None:
            raise EngineError("no heads are loaded")
        job = ScoreJob(tuple(prompt_ids), tuple(response_ids), loaded, alpha, wants_neurons)
        self._worker.score(job)
        return await asyncio.wrap_future(job.result)

    async def audit(
        self, prompt_ids: Sequence[int], response_ids: Sequence[int], *, heads: Heads | None = None
    ) -> tuple[ScoredSequence, ...]:
        """Score; there is one copy of the model."""
        return (await self.score(prompt_ids, response_ids, heads=heads),)

    async def _steps(self, sequence: RunningSequence) -> AsyncGenerator[EvidenceStep, None]:
        self._worker.submit(sequence)
        try:
            while True:
                step = await sequence.steps.get()
                if isinstance(step, EngineError):
                    raise step
                yield step
                if step.finish_reason is not None:
                    return
        finally:
            sequence.is_abandoned = True  # the worker drops it before its next step; no matter where it is done

    def _post(self, deliveries: list[Delivery]) -> None:
        """Hand a turn's steps to the event loop; called on the worker thread."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, deliveries)

    def _check_started(self) -> None:
        if self._loop is None:
            raise EngineError("the engine is not started")

    def _pick(self, named: Heads | None) -> LoadedHeads | None:
        assert named is None or isinstance(named, LoadedHeads), "heads of another engine"
        return named or self._heads


def _deliver(deliveries: list[Delivery]) -> None:
    for sequence, step in deliveries:
        sequence.steps.put_nowait(step)
