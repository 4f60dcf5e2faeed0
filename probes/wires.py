"""Wires: which neurons of a set lie in which module of a model. Hooks nothing and computes nothing but column norms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probes.architectures import FeedForward, NeuronBlock, feed_forwards
from probes.cett import column_norms
from probes.experts import expert_norms
from probes.neurons import NeuronSet


@dataclass(frozen=True)
class Wire:
    """One block's part of a neuron set."""

    block: NeuronBlock
    columns: Tensor
    """Column of each selected neuron inside the block [k]."""
    scaled_columns: Tensor
    """Those that alpha scales [s]."""

    def norms(self) -> Tensor:
        """norm(W_down[:, j]) of the selected neurons [k]."""
        if self.block.is_routed:
            return expert_norms(self.block.module, self.columns)
        weight = self.block.module.weight
        assert isinstance(weight, Tensor)
        return column_norms(weight[:, self.columns])


@dataclass(frozen=True)
class WiredLayer:
    """A layer that holds neurons of the set."""

    part: FeedForward
    wires: tuple[Wire, ...]
    """In the order of the layer's j, so that they follow each other as in the neuron set."""

    @property
    def is_plain(self) -> bool:
        """One down projection whose output is h."""
        return len(self.wires) == 1 and self.wires[0].block.module is self.part.output


def wire_layers(
    model: nn.Module, neurons: NeuronSet, suppressed: NDArray[np.integer] | Sequence[int]
) -> tuple[WiredLayer, ...]:
    """Find the modules of a neuron set, in layer order.

    Args:
        model: A supported model.
        neurons: The neuron set.
        suppressed: Positions in `neurons` of those that alpha scales.

    Raises:
        UnsupportedArchitectureError: The model's class is not in the table.
        ValueError: The neuron set is empty or of a model of other widths.
    """
    parts = feed_forwards(model)
    widths = tuple(part.width for part in parts)
    if widths != neurons.widths:
        raise ValueError(f"the neurons are of a model with layer widths {neurons.widths}, this one has {widths}")
    if not len(neurons):
        raise ValueError("a tap needs at least one neuron")
    device = next(model.parameters()).device
    is_scaled = np.zeros(len(neurons), dtype=bool)
    is_scaled[np.asarray(suppressed, dtype=np.int64)] = True
    layers = []
    for part in parts:
        place = neurons.of_layer(part.layer)
        wires = _wire_blocks(part, neurons.index[place], is_scaled[place], device)
        if wires:
            layers.append(WiredLayer(part, wires))
    return tuple(layers)


def _wire_blocks(
    part: FeedForward, index: NDArray[np.int64], is_scaled: NDArray[np.bool_], device: torch.device
) -> tuple[Wire, ...]:
    wires = []
    for block in part.blocks:
        low, high = np.searchsorted(index, [block.offset, block.offset + block.width])
        if low < high:
            columns = torch.from_numpy(index[low:high] - block.offset).to(device)
            wires.append(Wire(block, columns, columns[torch.from_numpy(is_scaled[low:high]).to(device)]))
    return tuple(wires)
