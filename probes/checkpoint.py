"""Checkpoint: what a probe needs to know of a model whose weights are in another process: names, sizes, column norms.

Reads single columns from safetensors files on disk; never holds the weights.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probes.architectures import UnsupportedArchitectureError, feed_forwards, layer_widths
from probes.cett import column_norms
from probes.models import ModelReferenceError
from probes.neurons import NeuronSet

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


class Checkpoint:
    """A model folder on disk."""

    def __init__(self, folder: Path) -> None:
        """Read its configuration.

        Args:
            folder: What `probes.models.resolve_model` returned.

        Raises:
            ModelReferenceError: It holds no configuration that transformers knows.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

        self.folder = folder
        try:
            self.config: Any = AutoConfig.from_pretrained(folder)
            with torch.device("meta"):
                self.skeleton: nn.Module = AutoModelForCausalLM.from_config(self.config)
        except (OSError, ValueError) as error:
            raise ModelReferenceError(f"{folder} holds no model that transformers knows: {error}") from error
        if (folder / "generation_config.json").exists():
            self.skeleton.generation_config = GenerationConfig.from_pretrained(folder)

    @property
    def widths(self) -> tuple[int, ...]:
        """Neurons of each layer, M."""
        return layer_widths(self.skeleton)

    @cached_property
    def down_projections(self) -> tuple[str, ...]:
        """Module names of the layers' down projections, in layer order.

        Raises:
            UnsupportedArchitectureError: The class is not in the table, or a layer has several, as experts do.
        """
        names = {module: name for name, module in self.skeleton.named_modules()}
        found = []
        for part in feed_forwards(self.skeleton):
            if len(part.blocks) != 1 or part.blocks[0].is_routed:
                raise UnsupportedArchitectureError(
                    f"{type(self.skeleton).__name__}: layer {part.layer} is a mixture of experts, whose neurons have "
                    "no down projection of their own; the transformers engine supports it (HGUARD_ENGINE=transformers)"
                )
            found.append(names[part.output])
        return tuple(found)

    def column_norms(self, neurons: NeuronSet) -> NDArray[np.float32]:
        """norm(W_down[:, j]) of these neurons, from the weights on disk [K].

        Raises:
            ValueError: The neurons are of a model of other widths.
            ModelReferenceError: The weights are not there as safetensors.
        """
        if neurons.widths != self.widths:
            raise ValueError(
                f"the neurons are of a model with layer widths {neurons.widths}, this one has {self.widths}"
            )
        parts: list[NDArray[np.float32]] = []
        for layer, name in enumerate(self.down_projections):
            place = neurons.of_layer(layer)
            if place.start < place.stop:
                weight = self._tensor(f"{name}.weight")
                parts.append(column_norms(weight[:, torch.from_numpy(neurons.index[place])]).numpy())
        norms: NDArray[np.float32] = np.concatenate(parts).astype(np.float32)
        return norms

    def _tensor(self, name: str) -> Tensor:
        from safetensors import safe_open

        file = self.folder / self._files.get(name, _SINGLE)
        if not file.exists():
            raise ModelReferenceError(f"{self.folder} has no {file.name}: column norms are read from safetensors files")
        with safe_open(file, framework="pt") as tensors:
            if name not in tensors.keys():  # noqa: SIM118 - not a dict
                raise ModelReferenceError(
                    f"{file} has no {name}: its weights are named otherwise than transformers does"
                )
            found: Tensor = tensors.get_tensor(name)
            return found

    @cached_property
    def _files(self) -> dict[str, str]:
        index = self.folder / _INDEX
        return dict(json.loads(index.read_text())["weight_map"]) if index.exists() else {}
