"""A worker that vLLM starts in place of its own (`worker_cls`), and what it answers over RPC."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import vllm

from offline.extraction.extract import FeatureStore
from offline.extraction.passage_sums import PassageSums
from offline.extraction.vllm_extract.runner import METHODS, ExtractRunner
from probes.checkpoint import Checkpoint
from probes.neurons import NeuronSet
from probes.vllm_start import check_signatures


class ExtractWorker:
    """Mixed into a worker class of vLLM: taps the model after its weights are loaded, before its first pass."""

    def load_model(self, **options: Any) -> None:
        """Load the model and tap it.

        Raises:
            RuntimeError: This vLLM or model cannot be tapped.
        """
        worker: Any = self
        runner, config = worker.model_runner, worker.vllm_config
        check_signatures(type(runner), METHODS, vllm.__version__)
        if config.quant_config is not None:
            raise RuntimeError(
                "the weights are quantized, so W_down has no plain columns: use --extractor transformers"
            )
        super().load_model(**options)  # type: ignore[misc]
        checkpoint = Checkpoint(Path(config.model_config.model))
        # vLLM may repack its weights: the norms are those of the columns on disk.
        norms = torch.from_numpy(
            checkpoint.column_norms(NeuronSet.from_flat(checkpoint.widths, np.arange(sum(checkpoint.widths))))
        )
        runner.hguard_sums = PassageSums(
            torch.split(norms.to(worker.device), list(checkpoint.widths)),
            config.scheduler_config.max_num_seqs,
            runner.model.compute_logits,
            self._keep,
        )
        runner.__class__ = type(f"Extract{type(runner).__name__}", (ExtractRunner, type(runner)), {})
        for layer, block in enumerate(checkpoint.blocks):
            down = runner.model.get_submodule(block.module)
            _check_layer(down, layer)
            runner.hguard_tap(down, layer)

    def hguard_open(self, folder: str, keys: list[str], neurons: int, settings: dict[str, Any]) -> None:
        """RPC: rows that are finished from now on go into this store, see `FeatureStore`."""
        self.hguard_store = FeatureStore(Path(folder), keys, neurons, settings)

    def hguard_why(self) -> str:
        """RPC: why extraction gave up, or nothing."""
        worker: Any = self
        return str(worker.model_runner.hguard_error)

    def _keep(self, rows: Any, features: torch.Tensor, signals: Any) -> None:
        self.hguard_store.write(rows, features, signals)


def _check_layer(down: Any, layer: int) -> None:
    if not getattr(down, "input_is_parallel", False) or down.tp_size > 1:
        raise RuntimeError(f"layer {layer}: {type(down).__name__} does not have z and h whole in one process")
