"""The worker class for CUDA."""

from vllm.v1.worker.gpu_worker import Worker

from service.engines.vllm_plugin.worker import TapWorker


class GPUTapWorker(TapWorker, Worker):  # type: ignore[misc] # vLLM is not there when types are checked
    """vLLM's CUDA worker with taps."""
