"""The vLLM engine: vLLM's AsyncLLM in this process, with taps in its workers (`service.engines.vllm_plugin`).

Translates requests into vLLM's and its columns back into evidence. Imported only when it is chosen.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.checkpoint import Checkpoint
from probes.decoding import stop_token_ids
from probes.fingerprint import ModelFingerprint, fingerprint_model
from probes.models import load_tokenizer
from probes.neurons import NeuronSet
from probes.vllm_start import start_arguments
from service.engines.base import (
    EngineError,
    EngineRequest,
    EvidenceStep,
    HeadBank,
    Heads,
    RequestTiming,
    ScoredSequence,
)
from service.engines.limits import check_ids
from service.engines.vllm_banks import Banks, LoadedBank
from service.engines.vllm_columns import Columns, split, token_of
from service.engines.vllm_core import VllmCore
from service.engines.vllm_plugin.tap_config import BANKS, RequestTap, TapConfig


class VllmEngine:
    """Serves one model; implements `service.engines.base.Engine`."""

    kind = "vllm"

    def __init__(
        self,
        model_folder: Path,
        *,
        model_name: str,
        dtype: str = "auto",
        device: str = "auto",
        max_rows: int = 32,
        slots: int = 64,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Read the checkpoint; `start` loads the model.

        Args:
            model_folder: What `probes.models.resolve_model` returned.
            model_name: What clients call the model.
            dtype: See `probes.models.load_model`.
            device: `cpu`, `cuda` or `auto`.
            max_rows: Sequences that run together; more wait.
            slots: Neurons that can be read in each layer, of all loaded probes together; where a layer has routed and
                shared experts, of either.
            arguments: More of vLLM's engine arguments, by their names there.

        Raises:
            ModelReferenceError: The folder holds no model.
            UnsupportedArchitectureError: Its layers cannot be tapped.
        """
        self.checkpoint = Checkpoint(model_folder)
        self.tokenizer = load_tokenizer(model_folder)
        self.model_name = model_name
        self.stop_token_ids = stop_token_ids(self.checkpoint.skeleton, self.tokenizer)
        self.device, known = start_arguments(model_folder, dtype, device)
        self.dtype = str(known["dtype"])
        self._tap = TapConfig(self.checkpoint.blocks, slots)
        text: Any = self.checkpoint.config.get_text_config()
        self._vocabulary = int(text.vocab_size)
        wanted = {"max_num_seqs": max_rows, "max_model_len": int(text.max_position_embeddings), **(arguments or {})}
        # One row more than a response has tokens may be fed: the last token's own.
        self.max_model_len = int(wanted["max_model_len"]) - 1
        self._banks = Banks(self.checkpoint.block_widths, slots, self._tap.heads, BANKS)
        self._loading = asyncio.Lock()
        self._columns = Columns(self._tap)
        self._core = VllmCore(self.device, known, wanted)

    @property
    def running(self) -> int:
        """Sequences that vLLM runs or has queued."""
        return self._core.running

    def fingerprint(self, name: str = "") -> ModelFingerprint:
        """What identifies the model to a probe."""
        return fingerprint_model(self.checkpoint.skeleton, self.tokenizer, name=name)

    def column_norms(self, neurons: NeuronSet) -> NDArray[np.float32]:
        """norm(W_down[:, j]) of these neurons, from the weights on disk [K]; vLLM may repack its own."""
        return self.checkpoint.column_norms(neurons)

    async def start(self, expected: HeadBank | None = None) -> None:
        """Load the model into vLLM's workers; takes half a minute to minutes.

        Args:
            expected: Heads that will be loaded: the residual stream is read after their layer, and no other.

        Raises:
            EngineError: vLLM did not start, or its workers are not tapped.
            ValueError: The model has no such layer.
        """
        if expected is not None and expected.residual is not None:
            self._tap = replace(self._tap, residual=self.checkpoint.layer_name(expected.residual.layer))
        await self._core.start(self._tap)

    async def close(self) -> None:
        """Stop; running requests end with EngineError."""
        await self._core.close()

    async def load_heads(self, bank: HeadBank, *, is_default: bool = True) -> Heads:
        """Load heads, once a bank is free; requests that run keep the ones they began with. Nothing is compiled again.

        Raises:
            ValueError: The bank is not of this model, does not fit into the slots, or reads the residual stream where
                it is not tapped.
            EngineError: The workers are not tapped.
        """
        self._core.check_started()
        norms = await asyncio.to_thread(self.checkpoint.column_norms, bank.neurons)
        routed = await asyncio.to_thread(self.checkpoint.routed_rows, bank.neurons)
        if bank.residual is not None and self._tap.residual != (at := self.checkpoint.layer_name(bank.residual.layer)):
            tapped = f"after {self._tap.residual}" if self._tap.residual else "nowhere"
            raise ValueError(
                f"the probe reads the residual stream after {at}, vLLM was started to read it {tapped}: restart with "
                "this probe in HGUARD_PROBE"
            )
        async with self._loading:  # two that load at once would find the same number free
            number = await self._banks.free_number()
            loaded, write = self._banks.plan(number, bank, norms, routed)
            await self._core.write(write)
            self._banks.add(loaded, is_default=is_default)
        return loaded

    def hold_heads(self, heads: Heads) -> AbstractContextManager[None]:
        """The bank stays loaded within."""
        return self._banks.used(self._banks.pick(heads))

    def generate(self, request: EngineRequest, timing: RequestTiming) -> AsyncGenerator[EvidenceStep, None]:
        """Generate one sequence, a step at a time, under the heads that it names.

        Raises:
            RequestTooLongError: At once, before the first step.
            EngineError: The engine failed.
        """
        self._core.check_started()
        check_ids(self, self._vocabulary, request.prompt_ids, request.max_tokens)
        if request.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")
        loaded = self._banks.pick(request.heads)
        if loaded is None and (request.is_scored or request.alpha != 1):
            raise EngineError("no heads are loaded: the request can be neither scored nor suppressed")
        return self._steps(request, loaded, timing)

    async def score(
        self,
        prompt_ids: Sequence[int],
        response_ids: Sequence[int],
        *,
        alpha: float = 1.0,
        wants_neurons: bool = False,
        heads: Heads | None = None,
        **place: Any,
    ) -> ScoredSequence:
        """One teacher-forced pass over prompt and response; `place` is as in `VllmCore.outputs`.

        Raises:
            RequestTooLongError: They do not fit the model.
            EngineError: The engine failed, or its tap did not run.
        """
        self._core.check_started()
        ids = [*prompt_ids, *response_ids]
        check_ids(self, self._vocabulary, ids)
        if not prompt_ids:
            raise ValueError("the prompt is empty: there is no row that predicts the first token")
        loaded = self._banks.pick(heads)
        if loaded is None:
            raise EngineError("no heads are loaded")
        tap = RequestTap(loaded.number, alpha, wants_neurons, len(prompt_ids) - 1)
        params = self._columns.params(tap, is_teacher_forced=True, max_tokens=1)
        with self._banks.used(loaded):
            scored = self._core.outputs(ids, params, "score", salt=loaded.salt_of(alpha), **place)
            async with aclosing(scored) as outputs:
                output = [output async for output in outputs][-1]
        # The first position is vLLM's, of the prompt's first token, which no row predicts.
        columns = [*split(output.prompt_logprobs)[1:], *split(output.outputs[0].logprobs)]
        tokens = tuple(token_of(token_id, row) for token_id, row in zip(response_ids, columns[:-1], strict=True))
        return ScoredSequence(tokens, tuple(self._columns.row(row, loaded, wants_neurons) for row in columns))

    async def audit(
        self, prompt_ids: Sequence[int], response_ids: Sequence[int], *, heads: Heads | None = None
    ) -> tuple[ScoredSequence, ...]:
        """Score once on every replica, behind all other requests.

        Raises:
            EngineError: The engine failed, or its tap did not run.
        """
        self._core.check_started()
        replicas = [
            self.score(prompt_ids, response_ids, heads=heads, is_background=True, replica=replica)
            for replica in range(self._core.replicas)
        ]
        return tuple(await asyncio.gather(*replicas))

    async def _steps(
        self, request: EngineRequest, loaded: LoadedBank | None, timing: RequestTiming
    ) -> AsyncGenerator[EvidenceStep, None]:
        wants_last_row = request.is_scored and loaded is not None and loaded.bank.position == "own"
        wants_cett = request.wants_neurons and request.is_scored
        params = self._columns.params(
            RequestTap(loaded.number if loaded else 0, request.alpha, wants_cett),
            max_tokens=request.max_tokens + wants_last_row,
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            top_k=request.sampling.top_k,
            seed=None if request.seed is None else request.seed % 2**63,
            stop_token_ids=sorted(self.stop_token_ids),
        )
        salt = loaded.salt_of(request.alpha) if loaded else None
        count, began = 0, time.perf_counter()
        with self._banks.used(loaded):
            generated = self._core.outputs(request.prompt_ids, params, request.request_id, salt=salt)
            async with aclosing(generated) as outputs:
                async for output in outputs:
                    took, began = time.perf_counter() - began, time.perf_counter()
                    if count:
                        timing.decode_seconds += took
                    else:
                        timing.prefill_seconds += took
                    completion = output.outputs[0]
                    for token_id, columns in zip(completion.token_ids, split(completion.logprobs), strict=True):
                        row = self._columns.row(columns, loaded, wants_cett) if loaded and request.is_scored else None
                        if token_id in self.stop_token_ids or count == request.max_tokens:
                            yield EvidenceStep(row, None, "length" if count == request.max_tokens else "stop")
                            return
                        count += 1
                        is_last = count == request.max_tokens and not wants_last_row
                        yield EvidenceStep(row, token_of(token_id, columns), "length" if is_last else None)
                        if is_last:
                            return
        raise EngineError(f"vLLM ended the request after {count} tokens without a reason")
