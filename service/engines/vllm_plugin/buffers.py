"""Persistent tensors that the tapped layers read and write. They never move, so compiled graphs can hold on to them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from probes.cett import cett_of_norm
from service.engines.vllm_plugin.tap_config import BANKS, TapConfig


class LayerBuffers(nn.Module):
    """One layer's slots on this rank, and views of what all layers share."""

    index: Tensor
    scaled: Tensor
    z: Tensor
    h_norm: Tensor
    alpha: Tensor
    bank: Tensor

    def __init__(self, z: Tensor, h_norm: Tensor, alpha: Tensor, bank: Tensor) -> None:
        """All slots empty.

        Args:
            z: Where z of the fed rows goes, before it is scaled [rows, S].
            h_norm: Where norm(h) of the fed rows goes [rows, 1].
            alpha: Multiplier of every fed row [rows, 1].
            bank: Bank of every fed row [rows].
        """
        super().__init__()
        slots, device = z.shape[1], z.device
        for name, value in {
            "index": torch.zeros(slots, dtype=torch.int64, device=device),
            "scaled": torch.zeros(BANKS, slots, device=device),
            "z": z,
            "h_norm": h_norm,
            "alpha": alpha,
            "bank": bank,
        }.items():
            self.register_buffer(name, value, persistent=False)


class TapBuffers:
    """The buffers of one rank."""

    def __init__(
        self,
        config: TapConfig,
        widths: Sequence[int],
        rows: int,
        *,
        rank: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Allocate.

        Args:
            config: Capacity.
            widths: Neurons of each layer on this rank.
            rows: Rows that one forward pass feeds at most, padding included.
            rank: Of tensor parallelism: it holds columns [rank * width, (rank + 1) * width) of a layer.
            device: Of the model.
            dtype: Of its activations.
        """
        self.config, self.widths, self.rank = config, tuple(widths), rank
        n_layers = len(config.layers)
        self.z = torch.zeros(n_layers, rows, config.slots, device=device, dtype=dtype)
        self.h_norm = torch.ones(n_layers, rows, 1, device=device)
        self.norms = torch.zeros(n_layers, 1, config.slots, device=device)
        self.alpha = torch.ones(rows, 1, device=device)
        self.bank = torch.zeros(rows, dtype=torch.int64, device=device)
        self.weights = torch.zeros(BANKS, config.heads, n_layers * config.slots, device=device)
        self.layers = [
            LayerBuffers(z, norm, self.alpha, self.bank) for z, norm in zip(self.z, self.h_norm, strict=True)
        ]

    def forget(self, rows: Tensor | slice) -> None:
        """Before a pass: what a layer then does not write must not look like a score."""
        self.h_norm[:, rows] = torch.nan

    def cett(self, rows: Tensor) -> Tensor:
        """CETT of every slot in some rows of the pass that just ran, 0 for neurons of other ranks [R, L * S]."""
        z, h_norm = self.z.index_select(1, rows), self.h_norm.index_select(1, rows)
        return cett_of_norm(z, h_norm, self.norms).transpose(0, 1).flatten(1)

    def write(
        self,
        bank: int,
        index: Sequence[Sequence[int]],
        norms: Sequence[Sequence[float]],
        weights: Sequence[Sequence[float]],
        scaled: Sequence[Sequence[int]],
    ) -> None:
        """Fill the slots, and one bank's weights.

        Args:
            bank: Which.
            index: Neuron of every slot, -1 where it is empty [L, S]; slots in use keep theirs.
            norms: norm(W_down[:, j]) of those neurons [L, S].
            weights: Of the bank's heads [N, L * S].
            scaled: 1 for the slots that alpha scales in this bank [L, S].

        Raises:
            ValueError: A neuron is outside of its layer.
        """
        neurons, scales = np.asarray(index, dtype=np.int64), np.asarray(scaled, dtype=np.float32)
        columns, sizes = _local_columns(neurons, np.asarray(norms, dtype=np.float32), self.widths, self.rank)
        for layer, buffers in enumerate(self.layers):
            buffers.index.copy_(torch.from_numpy(columns[layer]))
            buffers.scaled[bank].copy_(torch.from_numpy(scales[layer]))
        self.norms[:, 0].copy_(torch.from_numpy(sizes))
        self.weights[bank].zero_()
        self.weights[bank, : len(weights)].copy_(torch.tensor(weights, dtype=torch.float32))


def _local_columns(
    neurons: np.ndarray, norms: np.ndarray, widths: Sequence[int], rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """Columns of this rank's shard, and norms with 0 where the neuron is not here.

    A slot that holds nothing here points at a column that no other slot of the layer points at: it is read as 0 and
    scaled by 1, and must not undo what another slot writes.
    """
    columns, sizes = np.empty_like(neurons), np.zeros_like(norms)
    for layer, width in enumerate(widths):
        local = neurons[layer] - rank * width
        is_here = (neurons[layer] >= 0) & (local >= 0) & (local < width)
        free = np.setdiff1d(np.arange(width), local[is_here])
        if not is_here.all() and not len(free):
            raise ValueError(f"layer {layer} has {width} neurons on this rank and every one of them is in a slot")
        columns[layer] = np.where(is_here, local, free[0] if len(free) else 0)
        sizes[layer] = np.where(is_here, norms[layer], 0)
    return columns, sizes
