"""NeuronSet: which neurons, and the one flat ordering that every array of neurons uses.

The flat index counts layer by layer: `flat = widths[0] + ... + widths[layer - 1] + j`. Knows no weights and no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class NeuronSet:
    """A sorted set of neurons (layer, j) of a model with given layer widths.

    Raises:
        ValueError: Where arrays differ in length, a neuron lies outside the model, or the order is not strictly rising.
    """

    widths: tuple[int, ...]
    """Neurons of each layer, M; they differ between layers in some mixture-of-experts models."""
    layer: NDArray[np.int64]
    """Layer of each neuron [K]."""
    index: NDArray[np.int64]
    """j of each neuron, its column of W_down [K]."""

    def __post_init__(self) -> None:
        if self.layer.shape != self.index.shape or self.layer.ndim != 1:
            raise ValueError(f"layer {self.layer.shape} and index {self.index.shape} must be flat and of one length")
        if len(self.layer) == 0:
            return
        if self.layer.min() < 0 or self.layer.max() >= len(self.widths):
            raise ValueError(f"a neuron names layer {int(self.layer.max())}; the model has {len(self.widths)} layers")
        is_outside = (self.index < 0) | (self.index >= np.asarray(self.widths)[self.layer])
        if is_outside.any():
            at = int(np.argmax(is_outside))
            raise ValueError(
                f"neuron {int(self.index[at])} of layer {int(self.layer[at])} does not exist: "
                f"that layer has {self.widths[int(self.layer[at])]} neurons"
            )
        if (np.diff(self.flat) <= 0).any():
            raise ValueError("neurons must be in flat order, each once; build the set with NeuronSet.from_flat")

    @classmethod
    def from_flat(cls, widths: Sequence[int], flat: NDArray[np.integer]) -> "NeuronSet":
        """The set of these flat indices [K], in any order; duplicates are an error."""
        starts = np.concatenate([[0], np.cumsum(widths)])
        ordered = np.sort(np.asarray(flat, dtype=np.int64))
        if len(ordered) and (ordered[0] < 0 or ordered[-1] >= starts[-1]):
            raise ValueError(f"flat index {ordered[-1]} is outside the model's {starts[-1]} neurons")
        layer = np.searchsorted(starts, ordered, side="right") - 1
        return cls(tuple(int(w) for w in widths), layer, ordered - starts[layer])

    def __len__(self) -> int:
        return len(self.layer)

    @cached_property
    def flat(self) -> NDArray[np.int64]:
        """Flat index of each neuron [K], rising."""
        starts = np.concatenate([[0], np.cumsum(self.widths)])
        return np.asarray(starts[self.layer] + self.index, dtype=np.int64)

    @property
    def total(self) -> int:
        """All neurons of the model, sum of the widths."""
        return sum(self.widths)

    def split(self, widths: Sequence[int]) -> "NeuronSet":
        """The same neurons, counted in parts of layers.

        Args:
            widths: Neurons of each part; one or more parts follow each other in every layer.

        Raises:
            ValueError: A layer does not begin with a part.
        """
        if not set(np.cumsum(self.widths)) <= set(np.cumsum(widths)) or sum(widths) != self.total:
            raise ValueError(
                f"the neurons are of a model with widths {self.widths}, this one has {tuple(int(w) for w in widths)}"
            )
        return self.from_flat(widths, self.flat)

    def of_layer(self, layer: int) -> slice:
        """Where a layer's neurons stand in the arrays of this set."""
        low, high = np.searchsorted(self.layer, [layer, layer + 1])
        return slice(int(low), int(high))
