"""The worker class for a CPU. Apart from the CUDA one: vLLM's CPU worker changes torch when it is imported."""

from typing import Any

import torch
import vllm
from torch import Tensor
from vllm.v1.sample import rejection_sampler
from vllm.v1.worker.cpu_worker import CPUWorker

from service.engines.vllm_plugin.compat import check_function
from service.engines.vllm_plugin.runner import TapRunner
from service.engines.vllm_plugin.worker import TapWorker


class CPUTapRunner(TapRunner):
    """The taps of vLLM's CPU model runner."""

    def sample_tokens(self, *args: Any, **options: Any) -> Any:
        """Draw nothing from the generators of requests whose prompt is still being fed.

        VLLM draws for them too, and turns the generator back by its offset, which a CPU's has not: one such request
        ended the engine (seen in 0.32.0).
        """
        runner: Any = self
        generators = runner.input_batch.generators
        is_fed = runner.discard_request_mask.np
        held = {at: generators.pop(at) for at in list(generators) if is_fed[at]}
        try:
            return super().sample_tokens(*args, **options)  # type: ignore[misc]
        finally:
            generators.update(held)


class CPUTapWorker(TapWorker, CPUWorker):  # type: ignore[misc] # vLLM is not there when types are checked
    """vLLM's CPU worker with taps."""

    tap_runner = CPUTapRunner

    def load_model(self, **options: Any) -> None:
        """Load the model and tap it; see `TapWorker.load_model`."""
        parameters = ["x", "cu_num_tokens", "num_tokens", "replace_from", "replace_to"]
        check_function(rejection_sampler.expand_batch_to_tokens, parameters, vllm.__version__)
        rejection_sampler.expand_batch_to_tokens = _expand_batch_to_tokens
        super().load_model(**options)


def _expand_batch_to_tokens(
    x: Tensor, cu_num_tokens: Tensor, num_tokens: int, replace_from: int = 0, replace_to: int = 0
) -> Tensor:
    """In place of vLLM's, whose CPU kernel writes into a copy (vllm-project/vllm issue 55005, seen in 0.32.0).

    With speculation it leaves the temperatures of all drafted rows uninitialised as soon as one request of the batch
    samples: greedy ones beside it got random tokens.

    Args:
        x: A number for each request [B].
        cu_num_tokens: Rows of the requests up to and with each [B].
        num_tokens: All rows, N.
        replace_from: A number that is not to be used: 0, the temperature of greedy requests.
        replace_to: What is used in its place.

    Returns:
        The number of each row's request [N].
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    return torch.where(x == replace_from, replace_to, x).repeat_interleave(counts.long(), output_size=num_tokens)
