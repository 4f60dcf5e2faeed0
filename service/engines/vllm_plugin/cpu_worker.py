"""The worker class for a CPU. Apart from the CUDA one: vLLM's CPU worker changes torch when it is imported."""

from typing import Any

import torch
import vllm
from torch import Tensor
from vllm.v1.sample import rejection_sampler
from vllm.v1.worker.cpu_worker import CPUWorker

from service.engines.vllm_plugin.compat import check_function
from service.engines.vllm_plugin.worker import TapWorker


class CPUTapWorker(TapWorker, CPUWorker):  # type: ignore[misc] # vLLM is not there when types are checked
    """vLLM's CPU worker with taps."""

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
