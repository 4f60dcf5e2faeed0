"""The vLLM engine: vLLM's AsyncLLM in this process, with taps in its workers (`service.engines.vllm_plugin`).

Translates requests into vLLM's and its columns back into evidence. Imported only when it is chosen.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.checkpoint import Checkpoint
from probes.decoding import stop_token_ids
from probes.fingerprint import ModelFingerprint, fingerprint_model
from probes.models import load_tokenizer, pick_device, pick_dtype
from probes.neurons import NeuronSet
from service.engines.base import (
    EngineError,
    EngineRequest,
    EvidenceStep,
    HeadBank,
    RequestTiming,
    RequestTooLongError,
    RowEvidence,
    ScoredSequence,
    TokenEvidence,
)
from service.engines.vllm_banks import Banks, LoadedBank
from service.engines.vllm_plugin.tap_config import BANKS, FIRST_SCORE, RequestTap, TapConfig

_WORKERS = {
    "cpu": "service.engines.vllm_plugin.cpu_worker.CPUTapWorker",
    "cuda": "service.engines.vllm_plugin.gpu_worker.GPUTapWorker",
}
_CPU_CACHE_BYTES = 2 << 30


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
            slots: Neurons that can be read in each layer, of both loaded probes together.
            arguments: More of vLLM's engine arguments, by their names there.

        Raises:
            ModelReferenceError: The folder holds no model.
            UnsupportedArchitectureError: Its layers cannot be tapped.
        """
        self.checkpoint = Checkpoint(model_folder)
        self.tokenizer = load_tokenizer(model_folder)
        self.model_name = model_name
        self.stop_token_ids = stop_token_ids(self.checkpoint.skeleton, self.tokenizer)
        place = pick_device(device)
        self.device, self.dtype = place.type, str(pick_dtype(dtype, place)).removeprefix("torch.")
        self._tap = TapConfig(self.checkpoint.down_projections, slots)
        text: Any = self.checkpoint.config.get_text_config()
        self._vocabulary = int(text.vocab_size)
        self._arguments: dict[str, Any] = {
            "max_num_seqs": max_rows,
            "max_model_len": int(text.max_position_embeddings),
            # vLLM would take nearly all memory of a CPU machine for keys and values.
            **({"kv_cache_memory_bytes": _CPU_CACHE_BYTES} if place.type == "cpu" else {}),
            **(arguments or {}),
        }
        # One row more than a response has tokens may be fed: the last token's own.
        self.max_model_len = int(self._arguments["max_model_len"]) - 1
        self._banks = Banks(self.checkpoint.widths, slots, self._tap.heads, BANKS)
        self._loading = asyncio.Lock()
        self._numbers = itertools.count()
        self._vllm: Any = None

    @property
    def running(self) -> int:
        """Sequences that vLLM runs or has queued."""
        return len(self._vllm.output_processor.request_states) if self._vllm else 0

    def fingerprint(self, name: str = "") -> ModelFingerprint:
        """What identifies the model to a probe."""
        return fingerprint_model(self.checkpoint.skeleton, self.tokenizer, name=name)

    def column_norms(self, neurons: NeuronSet) -> NDArray[np.float32]:
        """norm(W_down[:, j]) of these neurons, from the weights on disk [K]; vLLM may repack its own."""
        return self.checkpoint.column_norms(neurons)

    async def start(self) -> None:
        """Load the model into vLLM's workers; takes half a minute to minutes.

        Raises:
            EngineError: vLLM did not start, or its workers are not tapped.
        """
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            arguments = AsyncEngineArgs(
                model=str(self.checkpoint.folder),
                dtype=self.dtype,
                skip_tokenizer_init=True,
                generation_config="vllm",
                worker_cls=_WORKERS[self.device],
                additional_config=self._tap.additional_config(),
                max_logprobs=self._tap.wide_columns,
                disable_log_stats=True,
                **self._arguments,
            )
            self._vllm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)
        except (RuntimeError, ValueError, TypeError, AssertionError, OSError) as error:
            raise EngineError(f"vLLM did not start: {error}") from error

    async def close(self) -> None:
        """Stop; running requests end with EngineError."""
        if self._vllm is not None:
            from vllm.v1.engine.exceptions import EngineDeadError

            vllm, self._vllm = self._vllm, None
            vllm.output_processor.propagate_error(EngineDeadError())  # `shutdown` would leave them waiting
            vllm.shutdown()  # in this thread: vLLM's own reader must not see its process go

    async def load_heads(self, bank: HeadBank) -> None:
        """Switch to these heads; requests that run keep the heads they began with. Nothing is compiled again.

        Raises:
            ValueError: The bank is not of this model, or does not fit into the slots.
            EngineError: The workers are not tapped.
        """
        self._check_started()
        norms = self.checkpoint.column_norms(bank.neurons)
        async with self._loading:  # two that load at once would find the same number free
            number = await self._banks.free_number()
            loaded, write = self._banks.plan(number, bank, norms, _salt(bank))
            arguments = (write.number, write.index, write.norms, write.weights, write.scaled)
            try:
                tapped = await self._vllm.collective_rpc("hguard_write", args=arguments)
            except Exception as error:
                raise EngineError(f"vLLM's workers did not take the heads: {error}") from error
            if any(count != len(self._tap.layers) for count in tapped):
                raise EngineError(f"vLLM's workers tapped {tapped} layers instead of {len(self._tap.layers)}")
            self._banks.switch(loaded)

    def generate(self, request: EngineRequest, timing: RequestTiming) -> AsyncGenerator[EvidenceStep, None]:
        """Generate one sequence, a step at a time; it keeps the heads that were loaded when this was called.

        Raises:
            RequestTooLongError: At once, before the first step.
            EngineError: The engine failed.
        """
        self._check_started()
        self._check_ids(request.prompt_ids, request.max_tokens)
        if request.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")
        loaded = self._banks.current
        if loaded is None and (request.is_scored or request.alpha != 1):
            raise EngineError("no heads are loaded: the request can be neither scored nor suppressed")
        return self._steps(request, loaded, timing)

    async def score(
        self, prompt_ids: Sequence[int], response_ids: Sequence[int], *, alpha: float = 1.0, wants_neurons: bool = False
    ) -> ScoredSequence:
        """One teacher-forced pass over prompt and response.

        Raises:
            RequestTooLongError: They do not fit the model.
            EngineError: The engine failed, or its tap did not run.
        """
        self._check_started()
        ids = [*prompt_ids, *response_ids]
        self._check_ids(ids, 0)
        if not prompt_ids:
            raise ValueError("the prompt is empty: there is no row that predicts the first token")
        loaded = self._banks.current
        if loaded is None:
            raise EngineError("no heads are loaded")
        first = len(prompt_ids) - 1
        tap = RequestTap(loaded.number, alpha, wants_neurons, first)
        params = self._params(tap, loaded, max_tokens=1, prompt_logprobs=self._n_columns(wants_neurons) - 1)
        with self._banks.used(loaded):
            async with aclosing(self._outputs(ids, params, "score")) as outputs:
                output = [output async for output in outputs][-1]
        rows = [*_rows(output.prompt_logprobs)[len(prompt_ids) :], *_rows(output.outputs[0].logprobs)]
        tokens = tuple(TokenEvidence(token, row[0], row[1]) for token, row in zip(response_ids, rows[:-1], strict=True))
        return ScoredSequence(tokens, tuple(_row(row, loaded, wants_neurons, self._tap) for row in rows))

    async def _steps(
        self, request: EngineRequest, loaded: LoadedBank | None, timing: RequestTiming
    ) -> AsyncGenerator[EvidenceStep, None]:
        wants_last_row = request.is_scored and loaded is not None and loaded.bank.position == "own"
        wants_cett = request.wants_neurons and request.is_scored
        params = self._params(
            RequestTap(loaded.number if loaded else 0, request.alpha, wants_cett),
            loaded,
            max_tokens=request.max_tokens + wants_last_row,
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            top_k=request.sampling.top_k,
            seed=None if request.seed is None else request.seed % 2**63,
            stop_token_ids=sorted(self.stop_token_ids),
        )
        count, began = 0, time.perf_counter()
        with self._banks.used(loaded):
            async with aclosing(self._outputs(request.prompt_ids, params, request.request_id)) as outputs:
                async for output in outputs:
                    took, began = time.perf_counter() - began, time.perf_counter()
                    if count:
                        timing.decode_seconds += took
                    else:
                        timing.prefill_seconds += took
                    completion = output.outputs[0]
                    for token_id, columns in zip(completion.token_ids, _rows(completion.logprobs), strict=True):
                        is_scored = request.is_scored and loaded is not None
                        row = _row(columns, loaded, wants_cett, self._tap) if is_scored else None  # type: ignore[arg-type]
                        if token_id in self.stop_token_ids or count == request.max_tokens:
                            yield EvidenceStep(row, None, "length" if count == request.max_tokens else "stop")
                            return
                        count += 1
                        is_last = count == request.max_tokens and not wants_last_row
                        token = TokenEvidence(int(token_id), columns[0], columns[1])
                        yield EvidenceStep(row, token, "length" if is_last else None)
                        if is_last:
                            return
        raise EngineError(f"vLLM ended the request after {count} tokens without a reason")

    def _params(self, tap: RequestTap, loaded: LoadedBank | None, **options: Any) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            **{"temperature": 0.0, **options},
            detokenize=False,
            logprobs=self._n_columns(tap.wants_cett) - 1,
            flat_logprobs=True,
            output_kind=RequestOutputKind.DELTA,
            extra_args=tap.extra_args(),
        )
        # Keys and values that were computed under an alpha hold for that alpha and probe only.
        salt = f"{loaded.salt}/{tap.alpha}" if loaded is not None and tap.alpha != 1 else None
        return params, salt

    async def _outputs(self, ids: Sequence[int], params: Any, name: str) -> AsyncGenerator[Any, None]:
        from vllm.inputs import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        self._check_started()
        sampling, salt = params
        prompt = TokensPrompt(prompt_token_ids=list(ids))
        if salt is not None:
            prompt["cache_salt"] = salt
        try:
            outputs = self._vllm.generate(prompt, sampling, f"{name}-{next(self._numbers)}")
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineError(f"vLLM failed: {error}") from error

    def _n_columns(self, wants_cett: bool) -> int:
        return self._tap.wide_columns if wants_cett else self._tap.columns

    def _check_started(self) -> None:
        if self._vllm is None:
            raise EngineError("the engine is not started")

    def _check_ids(self, ids: Sequence[int], more: int) -> None:
        if not ids:
            raise ValueError("the prompt is empty")
        if len(ids) + more > self.max_model_len:
            raise RequestTooLongError(
                f"{len(ids)} tokens and {more} to generate are more than the {self.max_model_len} of {self.model_name}"
            )
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            raise ValueError(f"a token id is outside the model's vocabulary of {self._vocabulary}")


def _rows(flat: Any) -> list[list[float]]:
    """Evidence columns of each position of vLLM's flat log-probabilities."""
    return [flat.logprobs[start:end] for start, end in zip(flat.start_indices, flat.end_indices, strict=True)]


def _row(columns: Sequence[float], loaded: LoadedBank, wants_cett: bool, tap: TapConfig) -> RowEvidence:
    scores = tuple(columns[FIRST_SCORE : FIRST_SCORE + len(loaded.bank.names)])
    neurons: NDArray[np.float32] | None = None
    if wants_cett:
        neurons = np.asarray(columns[tap.columns :], dtype=np.float32)[loaded.slots]
    return RowEvidence(scores, neurons)


def _salt(bank: HeadBank) -> str:
    """Names the H-neurons that alpha scales."""
    flat = bank.neurons.flat[bank.suppressed]
    return "hguard/" + sha256(flat.tobytes()).hexdigest()[:16]
