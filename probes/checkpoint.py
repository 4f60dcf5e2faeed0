"""Checkpoint: what a probe needs to know of a model whose weights are in another process: names, sizes, some weights.

Reads rows and columns from safetensors files on disk; never holds the weights.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probes.architectures import FeedForward, NeuronBlock, decoder_layers, feed_forwards, layer_widths
from probes.cett import column_norms
from probes.models import ModelReferenceError
from probes.neurons import NeuronSet

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True)
class _MixtureNames:
    """What checkpoints, and vLLM with them, call the parts of a mixture-of-experts layer."""

    block: str = "mlp"
    """Where transformers says `mlp`."""
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


_MIXTURES = {
    "DeepseekV3ForCausalLM": _MixtureNames(),
    "MixtralForCausalLM": _MixtureNames("block_sparse_moe", "w1", "w3", "w2"),
    "Qwen3MoeForCausalLM": _MixtureNames(),
}


@dataclass(frozen=True)
class StoredBlock:
    """Neurons of one layer that lie in one module, by the names of the checkpoint."""

    module: str
    """A down projection, or the routed experts of a layer."""
    output: str
    """The module whose output is h: that down projection, or the whole mixture-of-experts block."""
    width: int
    expert_width: int = 0
    """Neurons of one expert, I, where they are routed."""

    @property
    def gives_h(self) -> bool:
        """The module's own output is h."""
        return self.module == self.output


@dataclass(frozen=True)
class RoutedRows:
    """What z of routed neurons is computed from, R of a neuron set."""

    places: NDArray[np.int64]
    """Where they stand in the set [R]."""
    experts: NDArray[np.int64]
    """Expert of each [R]."""
    weights: NDArray[np.float32]
    """Row of the gate projection, row of the up projection and column of W_down of each [R, 3, D]."""


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
        self._opened: dict[Path, Any] = {}
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
    def blocks(self) -> tuple[StoredBlock, ...]:
        """The modules that hold the neurons, in the order of the flat index.

        Raises:
            UnsupportedArchitectureError: The class is not in the table.
        """
        names = {module: name for name, module in self.skeleton.named_modules()}
        return tuple(
            self._stored(part, block, names[block.module], names[part.output])
            for part in feed_forwards(self.skeleton)
            for block in part.blocks
        )

    @property
    def block_widths(self) -> tuple[int, ...]:
        """Neurons of each block."""
        return tuple(block.width for block in self.blocks)

    def layer_name(self, layer: int) -> str:
        """The module of a decoder layer.

        Raises:
            ValueError: There is no such layer.
        """
        layers = decoder_layers(self.skeleton)
        if not 0 <= layer < len(layers):
            raise ValueError(f"residual stream after layer {layer}: the model has layers 0 to {len(layers) - 1}")
        return next(str(name) for name, module in self.skeleton.named_modules() if module is layers[layer])

    def column_norms(self, neurons: NeuronSet) -> NDArray[np.float32]:
        """norm(W_down[:, j]) of these neurons, from the weights on disk [K].

        Raises:
            ValueError: The neurons are of a model of other widths.
            ModelReferenceError: The weights are not there as safetensors.
        """
        parts = [
            column_norms(torch.stack([self._routed(block, j, only=("down",))[0] for j in index], dim=1)).numpy()
            if block.expert_width
            else column_norms(self._tensor(f"{block.module}.weight")[:, torch.from_numpy(index)]).numpy()
            for block, index, _ in self._spread(neurons)
        ]
        norms: NDArray[np.float32] = np.concatenate(parts).astype(np.float32)
        return norms

    def routed_rows(self, neurons: NeuronSet) -> RoutedRows:
        """Weights of those of the neurons that are routed, from the weights on disk.

        Raises:
            ValueError: The neurons are of a model of other widths.
            ModelReferenceError: The weights are not there as safetensors.
        """
        routed = [(block, index, place) for block, index, place in self._spread(neurons) if block.expert_width]
        rows = [torch.stack(self._routed(block, j)).float() for block, index, _ in routed for j in index]
        return RoutedRows(
            np.concatenate([np.zeros(0, np.int64), *(np.arange(place.start, place.stop) for *_, place in routed)]),
            np.concatenate([np.zeros(0, np.int64), *(index // block.expert_width for block, index, _ in routed)]),
            torch.stack(rows).numpy() if rows else np.zeros((0, 3, 0), np.float32),
        )

    def _stored(self, part: FeedForward, block: NeuronBlock, module: str, output: str) -> StoredBlock:
        if block.module is part.output:
            return StoredBlock(module, output, block.width)
        inside = module.removeprefix(output)
        output = f"{output.rpartition('.')[0]}.{self._names.block}"
        if not block.is_routed:
            return StoredBlock(output + inside, output, block.width)
        down = block.module.get_parameter("down_proj")
        return StoredBlock(output + inside, output, block.width, expert_width=int(down.shape[2]))

    @property
    def _names(self) -> _MixtureNames:
        return _MIXTURES[type(self.skeleton).__name__]

    def _spread(self, neurons: NeuronSet) -> Iterator[tuple[StoredBlock, NDArray[np.int64], slice]]:
        """Blocks that hold some of the neurons, which of theirs [k], and where these stand in the set."""
        if neurons.widths != self.widths:
            raise ValueError(
                f"the neurons are of a model with layer widths {neurons.widths}, this one has {self.widths}"
            )
        split = neurons.split(self.block_widths)
        for at, block in enumerate(self.blocks):
            place = split.of_layer(at)
            if place.start < place.stop:
                yield block, split.index[place], place

    def _routed(
        self, block: StoredBlock, j: int, only: Sequence[Literal["gate", "up", "down"]] = ("gate", "up", "down")
    ) -> list[Tensor]:
        """Row of the gate projection, row of the up projection and column of W_down of a routed neuron [D] each.

        Experts are large and the neurons few in each: nothing else of them is read.
        """
        expert, inner = divmod(int(j), block.expert_width)
        mine = slice(inner, inner + 1)
        found = []
        for part in only:
            name = f"{block.module}.{expert}.{getattr(self._names, part)}.weight"
            stored = self._file_of(name).get_slice(name)
            found.append(stored[:, mine][:, 0] if part == "down" else stored[mine][0])
        return found

    def _tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._file_of(name).get_tensor(name)
        return tensor

    def _file_of(self, name: str) -> Any:
        """The opened file that a tensor is in."""
        from safetensors import safe_open

        file = self.folder / self._files.get(name, _SINGLE)
        if not file.exists():
            raise ModelReferenceError(f"{self.folder} has no {file.name}: column norms are read from safetensors files")
        if file not in self._opened:
            self._opened[file] = safe_open(file, framework="pt")
        tensors = self._opened[file]
        if name not in tensors.keys():  # noqa: SIM118 - not a dict
            raise ModelReferenceError(f"{file} has no {name}: its weights are named otherwise than transformers does")
        return tensors

    @cached_property
    def _files(self) -> dict[str, str]:
        index = self.folder / _INDEX
        return dict(json.loads(index.read_text())["weight_map"]) if index.exists() else {}
