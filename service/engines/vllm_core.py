"""vLLM's AsyncLLM in this process: started, told what its workers read, asked, stopped. Knows no evidence."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from probes.vllm_start import tappable_runner
from service.engines.base import EngineError
from service.engines.vllm_banks import BankWrite
from service.engines.vllm_plugin.compat import check_front_end
from service.engines.vllm_plugin.modes import check_mode
from service.engines.vllm_plugin.tap_config import TapConfig

_WORKERS = {
    "cpu": "service.engines.vllm_plugin.cpu_worker.CPUTapWorker",
    "cuda": "service.engines.vllm_plugin.gpu_worker.GPUTapWorker",
}


class VllmCore:
    """One AsyncLLM with tapped workers."""

    def __init__(self, device: str, known: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Prepare.

        Args:
            device: `cpu` or `cuda`.
            known: vLLM's engine arguments from `probes.vllm_start.start_arguments`.
            wanted: More of them, the operator's.
        """
        self._device, self._known, self._wanted = device, known, wanted
        self._blocks = 0
        self._numbers = itertools.count()
        self._vllm: Any = None
        self.running = 0
        """Sequences that vLLM runs or has queued."""

    @property
    def replicas(self) -> int:
        """Copies of the model behind one queue (vLLM's data parallelism)."""
        return int(self._vllm.vllm_config.parallel_config.data_parallel_size)

    async def start(self, tap: TapConfig) -> None:
        """Load the model into vLLM's workers; takes half a minute to minutes.

        Args:
            tap: What the workers read.

        Raises:
            EngineError: vLLM did not start, or its workers cannot be tapped.
        """
        ours = {
            "worker_cls": _WORKERS[self._device],
            "additional_config": tap.additional_config(),
            "max_logprobs": tap.wide_columns,
            "scheduling_policy": "priority",  # the canary comes after all others
            "disable_log_stats": True,
        }
        self._blocks = len(tap.blocks)
        taken = sorted({"model", "dtype", "skip_tokenizer_init", "generation_config", *ours} & self._wanted.keys())
        if taken:
            raise EngineError(f"HGUARD_VLLM_ARGS sets {', '.join(taken)}, which hguard sets itself: take it out")
        try:
            with tappable_runner():
                self._vllm = await asyncio.to_thread(_started, {**self._known, **self._wanted, **ours})
        except Exception as error:
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
        heads = (write.number, write.index, write.norms, write.weights, write.scaled, write.stream)
        try:
            tapped = await self._vllm.collective_rpc("hguard_write", args=(write.routed, *heads))
        except Exception as error:
            raise EngineError(f"vLLM's workers did not take the heads: {error}") from error
        if any(count != self._blocks for count in tapped):
            raise EngineError(f"vLLM's workers tapped {tapped} blocks instead of {self._blocks}")

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
        except Exception as error:  # not all of vLLM's own have a base class
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


def _started(arguments: dict[str, Any]) -> Any:
    import vllm
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.logprobs import FlatLogprobs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import OutputProcessor

    check_front_end(OutputProcessor, FlatLogprobs, vllm.__version__)
    config = AsyncEngineArgs(**arguments).create_engine_config(UsageContext.ENGINE_CONTEXT)
    check_mode(config, vllm.__version__)  # the workers do it too, but their words end in the log
    return AsyncLLM.from_vllm_config(config, disable_log_stats=True)
