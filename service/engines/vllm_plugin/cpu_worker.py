"""The worker class for a CPU. Apart from the CUDA one: vLLM's CPU worker changes torch when it is imported."""

from vllm.v1.worker.cpu_worker import CPUWorker

from service.engines.vllm_plugin.worker import TapWorker


class CPUTapWorker(TapWorker, CPUWorker):  # type: ignore[misc] # vLLM is not there when types are checked
    """vLLM's CPU worker with taps."""
