"""The worker class for a CPU."""

from vllm.v1.worker.cpu_worker import CPUWorker

from offline.extraction.vllm_extract.worker import ExtractWorker


class CPUExtractWorker(ExtractWorker, CPUWorker):  # type: ignore[misc] # vLLM is not there when types are checked
    """vLLM's CPU worker that extracts features."""
