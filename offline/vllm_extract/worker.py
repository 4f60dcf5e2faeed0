"""A worker that vLLM starts in place of its own (`worker_cls`), and what it answers over RPC."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import vllm

from offline.extract import FeatureStore
from offline.passage_sums import PassageSums
from offline.vllm_extract.runner import ExtractRunner, check_runner
from probes.checkpoint import Checkpoint
from probes.neurons import NeuronSet


class ExtractWorker:
    """Mixed into a worker class of vLLM: taps the model after its weights are loaded, before its first pass."""

    def load_model(self, **options: Any) -> None:
        """Load the model and tap it.

        Raises:
            RuntimeError: This vLLM or model cannot be tapped.
        """
        worker: Any = self
        runner, config = worker.model_runner, worker.vllm_config
        check_runner(type(runner), vllm.__version__)
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
        for layer, block in enumerate(checkpoint.blocks):
            _tap(runner.model.get_submodule(block.module), layer, runner.hguard_sums)
        runner.__class__ = type(f"Extract{type(runner).__name__}", (ExtractRunner, type(runner)), {})

    def hguard_open(self, folder: str, keys: list[str], neurons: int, settings: dict[str, Any]) -> None:
        """RPC: rows that are finished from now on go into this store, see `FeatureStore`."""
        self.hguard_store = FeatureStore(Path(folder), keys, neurons, settings)

    def hguard_why(self) -> str:
        """RPC: why extraction gave up, or nothing."""
        worker: Any = self
        return str(worker.model_runner.hguard_error)

    def _keep(self, rows: Any, features: torch.Tensor, signals: Any) -> None:
        self.hguard_store.write(rows, features, signals)


def _tap(down: Any, layer: int, sums: PassageSums) -> None:
    if not getattr(down, "input_is_parallel", False) or down.tp_size > 1:
        raise RuntimeError(f"layer {layer}: {type(down).__name__} does not have z and h whole in one process")

    def read(_module: Any, args: tuple[torch.Tensor], output: Any) -> None:
        sums.add(layer, args[0], output[0] if isinstance(output, tuple) else output)

    down.register_forward_hook(read)
