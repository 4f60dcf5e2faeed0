"""The worker class for CUDA."""

from vllm.v1.worker.gpu_worker import Worker

from offline.extraction.vllm_extract.worker import ExtractWorker


class GPUExtractWorker(ExtractWorker, Worker):  # type: ignore[misc] # vLLM is not there when types are checked
    """vLLM's CUDA worker that extracts features."""
