"""Persistent tensors that the tapped layers read and write. They never move, so compiled graphs can hold on to them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from probes.cett import cett_of_norm
from service.engines.vllm_plugin.tap_config import BANKS, TapConfig


class BlockBuffers(nn.Module):
    """One block's slots on this rank, and views of what all blocks share."""

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
        self._keep(scaled=torch.zeros(BANKS, z.shape[1], device=z.device), z=z, h_norm=h_norm, alpha=alpha, bank=bank)

    def _keep(self, **buffers: Tensor) -> None:
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)


class LayerBuffers(BlockBuffers):
    """Of a down projection."""

    index: Tensor

    def __init__(self, z: Tensor, h_norm: Tensor, alpha: Tensor, bank: Tensor) -> None:
        """All slots empty, see `BlockBuffers`."""
        super().__init__(z, h_norm, alpha, bank)
        self._keep(index=torch.zeros(z.shape[1], dtype=torch.int64, device=z.device))


class ExpertBuffers(BlockBuffers):
    """Of routed experts: the weights of the neurons in the slots, from which z is computed again."""

    expert: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor

    def __init__(self, z: Tensor, h_norm: Tensor, alpha: Tensor, bank: Tensor, *, size: int, is_writer: bool) -> None:
        """All slots empty, see `BlockBuffers`.

        Args:
            z: As there.
            h_norm: As there.
            alpha: As there.
            bank: As there.
            size: Of the hidden state, D.
            is_writer: This rank changes h under an alpha; on the others the columns of W_down stay 0, since h is summed
                over the ranks afterwards.
        """
        super().__init__(z, h_norm, alpha, bank)
        self._is_writer = is_writer
        self._keep(expert=torch.full((z.shape[1],), -1, dtype=torch.int64, device=z.device))
        self._keep(**{name: z.new_zeros(z.shape[1], size) for name in ("gate", "up", "down")})

    def write(self, slots: Tensor, experts: Tensor, weights: Tensor) -> None:
        """Fill some slots.

        Args:
            slots: Which [R].
            experts: Expert of each neuron [R].
            weights: Its gate row, up row and column of W_down [R, 3, D].
        """
        at = slots.to(self.z.device)
        self.expert[at] = experts.to(self.expert)
        self.gate[at], self.up[at] = weights[:, 0].to(self.gate), weights[:, 1].to(self.up)
        if self._is_writer:
            self.down[at] = weights[:, 2].to(self.down)


class TapBuffers:
    """The buffers of one rank."""

    def __init__(
        self,
        config: TapConfig,
        widths: Sequence[int],
        rows: int,
        *,
        rank: int = 0,
        size: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Allocate.

        Args:
            config: Capacity.
            widths: Neurons of each block on this rank; of routed experts all, which the first rank holds.
            rows: Rows that one forward pass feeds at most, padding included.
            rank: Of tensor parallelism: it holds neurons [rank * width, (rank + 1) * width) of a block.
            size: Of the hidden state, D; needed for routed experts and the residual stream.
            device: Of the model.
            dtype: Of its activations.
        """
        self.config, self.widths, self.rank = config, tuple(widths), rank
        n_blocks = len(config.blocks)
        self.z = torch.zeros(n_blocks, rows, config.slots, device=device, dtype=dtype)
        self.h_norm = torch.ones(n_blocks, rows, 1, device=device)
        self.norms = torch.zeros(n_blocks, 1, config.slots, device=device)
        self.alpha = torch.ones(rows, 1, device=device)
        self.bank = torch.zeros(rows, dtype=torch.int64, device=device)
        self.weights = torch.zeros(BANKS, config.heads, n_blocks * config.slots, device=device)
        self.stream = torch.zeros(rows, BANKS, config.heads, device=device)
        """What every head of every bank reads of the residual stream."""
        self.stream_weights = torch.zeros(size if config.residual else 0, BANKS, config.heads, device=device)
        self.blocks: list[LayerBuffers | ExpertBuffers] = [
            ExpertBuffers(z, norm, self.alpha, self.bank, size=size, is_writer=rank == 0)
            if block.expert_width
            else LayerBuffers(z, norm, self.alpha, self.bank)
            for block, z, norm in zip(config.blocks, self.z, self.h_norm, strict=True)
        ]
        self._apart = [z for block, z in zip(config.blocks, self.z, strict=True) if not block.gives_h]

    def forget(self, rows: Tensor | slice) -> None:
        """Before a pass: what a layer then does not write must not look like a score."""
        self.h_norm[:, rows] = torch.nan
        if self.config.residual:
            self.stream[rows] = torch.nan
        for z in self._apart:  # z and h are not written together
            z[rows] = torch.nan

    def cett(self, rows: Tensor) -> Tensor:
        """CETT of every slot in some rows of the pass that just ran, 0 for neurons of other ranks [R, B * S]."""
        z, h_norm = self.z.index_select(1, rows), self.h_norm.index_select(1, rows)
        return cett_of_norm(z, h_norm, self.norms).transpose(0, 1).flatten(1)

    def write(
        self,
        bank: int,
        index: Sequence[Sequence[int]],
        norms: Sequence[Sequence[float]],
        weights: Sequence[Sequence[float]],
        scaled: Sequence[Sequence[int]],
        stream: bytes = b"",
    ) -> None:
        """Fill the slots, and one bank's weights.

        Args:
            bank: Which.
            index: Neuron of every slot, -1 where it is empty [B, S]; slots in use keep theirs.
            norms: norm(W_down[:, j]) of those neurons [B, S].
            weights: Of the bank's heads [N, B * S].
            scaled: 1 for the slots that alpha scales in this bank [B, S].
            stream: Weights of the bank's heads on the residual stream, float32 [N, D]; empty: no head reads it.

        Raises:
            ValueError: A neuron is outside of its layer.
        """
        neurons, scales = np.asarray(index, dtype=np.int64), np.asarray(scaled, dtype=np.float32)
        columns, sizes = _local_columns(neurons, np.asarray(norms, dtype=np.float32), self.widths, self.rank)
        for at, buffers in enumerate(self.blocks):
            if isinstance(buffers, LayerBuffers):
                buffers.index.copy_(torch.from_numpy(columns[at]))
            buffers.scaled[bank].copy_(torch.from_numpy(scales[at]))
        self.norms[:, 0].copy_(torch.from_numpy(sizes))
        self.weights[bank].zero_()
        self.weights[bank, : len(weights)].copy_(torch.tensor(weights, dtype=torch.float32))
        self.stream_weights[:, bank] = 0
        if stream and self.rank == 0:  # scores are summed over the ranks, and each has the whole stream
            read = torch.frombuffer(bytearray(stream), dtype=torch.float32).view(len(weights), -1)
            self.stream_weights[:, bank, : len(weights)].copy_(read.T)

    def write_routed(self, slots: Sequence[int], experts: Sequence[int], weights: bytes) -> None:
        """Fill the slots of routed neurons, before `write` puts them to use.

        Args:
            slots: Which, counted over all blocks [R].
            experts: Expert of each neuron [R].
            weights: Its gate row, up row and column of W_down, float32 [R, 3, D].
        """
        block, slot = np.divmod(np.asarray(slots, dtype=np.int64), self.config.slots)
        rows = torch.frombuffer(bytearray(weights), dtype=torch.float32).view(len(slots), 3, -1) if slots else None
        for at, buffers in enumerate(self.blocks):
            if rows is not None and isinstance(buffers, ExpertBuffers):
                mine = torch.from_numpy(np.flatnonzero(block == at))
                buffers.write(torch.from_numpy(slot)[mine], torch.tensor(experts)[mine], rows[mine])


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
