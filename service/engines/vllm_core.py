"""vLLM's AsyncLLM in this process: started, told what its workers read, asked, stopped. Knows no evidence."""

import asyncio
import itertools
import logging
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

from service.engines.base import EngineError
from service.engines.vllm_banks import BankWrite
from service.engines.vllm_plugin.tap_config import TapConfig

logger = logging.getLogger(__name__)
_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
_WORKERS = {
    "cpu": "service.engines.vllm_plugin.cpu_worker.CPUTapWorker",
    "cuda": "service.engines.vllm_plugin.gpu_worker.GPUTapWorker",
}


class VllmCore:
    """One AsyncLLM with tapped workers."""

    def __init__(self, tap: TapConfig, device: str, arguments: dict[str, Any]) -> None:
        """Prepare.

        Args:
            tap: Capacity of the taps.
            device: `cpu` or `cuda`.
            arguments: vLLM's engine arguments, by their names there.
        """
        self._tap, self._device, self._arguments = tap, device, arguments
        self._numbers = itertools.count()
        self._vllm: Any = None
        self.running = 0
        """Sequences that vLLM runs or has queued."""

    @property
    def replicas(self) -> int:
        """Copies of the model behind one queue (vLLM's data parallelism)."""
        return int(self._vllm.vllm_config.parallel_config.data_parallel_size)

    async def start(self) -> None:
        """Load the model into vLLM's workers; takes half a minute to minutes.

        Raises:
            EngineError: vLLM did not start, or its workers cannot be tapped.
        """
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            arguments = AsyncEngineArgs(
                skip_tokenizer_init=True,
                generation_config="vllm",
                worker_cls=_WORKERS[self._device],
                additional_config=self._tap.additional_config(),
                max_logprobs=self._tap.wide_columns,
                disable_log_stats=True,
                **{"scheduling_policy": "priority", **self._arguments},
            )
            with tappable_runner():
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

    async def write(self, write: BankWrite) -> None:
        """Fill a bank on every worker of every replica.

        Raises:
            EngineError: A worker did not take it, or is not tapped.
        """
        arguments = (write.number, write.index, write.norms, write.weights, write.scaled, write.routed)
        try:
            tapped = await self._vllm.collective_rpc("hguard_write", args=arguments)
        except Exception as error:
            raise EngineError(f"vLLM's workers did not take the heads: {error}") from error
        if any(count != len(self._tap.blocks) for count in tapped):
            raise EngineError(f"vLLM's workers tapped {tapped} blocks instead of {len(self._tap.blocks)}")

    async def outputs(
        self,
        ids: Sequence[int],
        params: Any,
        name: str,
        *,
        salt: str | None,
        is_background: bool = False,
        replica: int | None = None,
    ) -> AsyncGenerator[Any, None]:
        """VLLM's outputs of one request.

        Args:
            ids: Prompt.
            params: vLLM's sampling parameters.
            name: For vLLM's log; made unique here.
            salt: Keys and values are shared with requests of the same salt only.
            is_background: After all others.
            replica: Which; None: the one with the least to do.

        Raises:
            EngineError: vLLM failed or is stopped.
        """
        from vllm.inputs import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        self.check_started()
        prompt = TokensPrompt(prompt_token_ids=list(ids))
        if salt is not None:
            prompt["cache_salt"] = salt
        number = f"{name}-{next(self._numbers)}"
        self.running += 1
        try:
            outputs = self._vllm.generate(
                prompt, params, number, priority=int(is_background), data_parallel_rank=replica
            )
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineError(f"vLLM failed: {error}") from error
        finally:
            self.running -= 1

    def check_started(self) -> None:
        """Requests can be taken.

        Raises:
            EngineError: They cannot.
        """
        if self._vllm is None:
            raise EngineError("the engine is not started")


@contextmanager
def tappable_runner() -> Iterator[None]:
    """VLLM's processes that start meanwhile take its model runner V1, which the taps are written for.

    Left to itself vLLM takes V2 on CUDA (0.25.1 to 0.28: for models without experts; later: for all). The variable is
    inherited by the processes and not kept in ours.

    Raises:
        EngineError: The operator asks for V2.
    """
    wanted = os.environ.get(_RUNNER)
    if wanted not in (None, "0"):
        raise EngineError(
            f"{_RUNNER}={wanted} asks for a model runner of vLLM that the guard cannot tap: unset it, "
            "or use HGUARD_ENGINE=transformers"
        )
    logger.info("vLLM is started with its model runner V1 (%s=0), which the guard's taps are written for", _RUNNER)
    os.environ[_RUNNER] = "0"
    try:
        yield
    finally:
        if wanted is None:
            del os.environ[_RUNNER]
