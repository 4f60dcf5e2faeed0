"""The worker class for CUDA."""

from typing import Any

from vllm.v1.worker.gpu_worker import Worker

from service.engines.vllm_plugin.step_tap import compile_entropy
from service.engines.vllm_plugin.worker import TapWorker


class GPUTapWorker(TapWorker, Worker):  # type: ignore[misc] # vLLM is not there when types are checked
    """vLLM's CUDA worker with taps."""

    def load_model(self, **options: Any) -> None:
        """Load the model and tap it; see `TapWorker.load_model`."""
        super().load_model(**options)
        compile_entropy(self.vllm_config.model_config.get_vocab_size(), self.device)
