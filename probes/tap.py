"""Hooks on the feed-forward part of a model: read what CETT needs of some neurons, and scale the H-neurons.

The raw z is read before it is scaled, so a suppressed neuron is still seen. h is the output as the model used it, after
scaling. A hook that did not run, or ran out of turn, is found out: `HeadTap.read` raises instead of giving old numbers.
Does not reduce over tokens (see `probes.reducing_tap`) and knows no risk.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probes.architectures import FeedForward, NeuronBlock, feed_forwards
from probes.cett import cett_of_norm, column_norms, h_norm, suppress
from probes.experts import expert_norms, experts_input, last_columns, read_experts, write_experts
from probes.neurons import NeuronSet

_Hook = Callable[..., Tensor | tuple[Tensor, ...] | None]


class TapError(RuntimeError):
    """A tapped layer did not run as expected: nothing that was read may be used."""


@dataclass(frozen=True)
class _Wire:
    """One block's part of a neuron set."""

    block: NeuronBlock
    columns: Tensor
    """Column of each selected neuron inside the block [k]."""
    is_scaled: Tensor
    """Which of `columns` alpha scales [k]."""

    @property
    def scaled_columns(self) -> Tensor:
        return self.columns[self.is_scaled]

    def norms(self) -> Tensor:
        """norm(W_down[:, j]) of the selected neurons [k]."""
        if self.block.is_routed:
            return expert_norms(self.block.module, self.columns)
        weight = self.block.module.weight
        assert isinstance(weight, Tensor)
        return column_norms(weight[:, self.columns])


@dataclass(frozen=True)
class Reading:
    """What one forward pass showed."""

    cett: Tensor
    """[B, Q, K] for Q the last fed columns that were asked for, at least float32."""

    def scores(self, weights: Tensor) -> Tensor:
        """Head scores [B, Q, N] of weights [N, K]."""
        return self.cett @ weights.to(self.cett.dtype).T


class HeadTap:
    """Reads the CETT of a neuron set and scales some of it, for one model.

    Hooks sit on layers that hold a selected neuron, and nowhere else. One forward pass at a time:

        with tap.attached():
            tap.begin(rows)
            model(...)
            reading = tap.read()
    """

    def __init__(
        self, model: nn.Module, neurons: NeuronSet, suppressed: NDArray[np.integer] | Sequence[int] = ()
    ) -> None:
        """Find the modules and take the norms of the selected columns.

        Args:
            model: A supported model (see `probes.architectures`).
            neurons: The neurons to read, K.
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
        self.neurons = neurons
        self.device = next(model.parameters()).device
        is_scaled = np.zeros(len(neurons), dtype=bool)
        is_scaled[np.asarray(suppressed, dtype=np.int64)] = True
        self._layers = [part for part in parts if (place := neurons.of_layer(part.layer)).stop > place.start]
        self._wires = [self._wire(part, is_scaled) for part in self._layers]
        self.norms = torch.cat([wire.norms() for wires in self._wires for wire in wires]).detach()
        """norm(W_down[:, j]) of the neurons [K], at least float32, from the loaded weights."""
        layer_of = np.searchsorted([part.layer for part in self._layers], neurons.layer)
        self._layer_of = torch.from_numpy(layer_of).to(self.device)
        self._places = self._whole_places()
        self._rows, self._scales = 0, True
        self._is_step = False
        """The pass fed one column: z and h were kept whole."""
        self._alphas: Tensor | None = None
        self._last = 1
        self._z: list[Tensor] = []
        self._h: list[Tensor] = []
        self._turns: list[int] = []

    def begin(self, rows: int, *, alphas: Tensor | None = None, last: int | None = 1) -> None:
        """Prepare for the next forward pass.

        Args:
            rows: Rows of the batch, B.
            alphas: One multiplier a row [B]; None where no row is scaled: the model's arithmetic stays as it is.
            last: How many of the last fed columns are read; None for all.
        """
        if alphas is not None and not self._scales:
            raise ValueError("alphas need the tap attached with scales=True")
        self._rows, self._is_step = rows, False
        self._alphas = None if alphas is None else alphas.to(self.device)[:, None, None]
        self._last = last or 0  # [-0:] is everything
        self._z, self._h, self._turns = [], [], []

    def read(self) -> Reading:
        """The CETT of the pass since `begin`.

        Raises:
            TapError: A tapped layer did not run, ran twice, or not in its turn.
        """
        expected = [number for number, wires in enumerate(self._wires) for _ in (*wires, "h")]
        if self._turns != expected:
            seen, wanted = ([self._layers[turn].layer for turn in turns] for turns in (self._turns, expected))
            raise TapError(
                f"taps ran on layers {seen} instead of {wanted} (each once a block and once for h): "
                "the model's layers are not the ones that were tapped, so nothing that was read may be used"
            )
        z = torch.cat(self._z, dim=-1)
        if self._is_step:
            z = z.index_select(-1, self._places)
            norm = h_norm(torch.cat(self._h, dim=1)).transpose(1, 2)
        else:
            norm = torch.cat(self._h, dim=-1)
        self._z, self._h = [], []
        return Reading(cett_of_norm(z, norm.index_select(-1, self._layer_of), self.norms))

    @contextmanager
    def attached(self, *, scales: bool = True) -> Iterator["HeadTap"]:
        """Hook the model; unhooked on leaving. Without `scales` no alphas can be given, and fewer hooks do."""
        self._scales = scales
        with ExitStack() as stack:
            for turn, (part, wires) in enumerate(zip(self._layers, self._wires, strict=True)):
                if not scales and len(wires) == 1 and wires[0].block.module is part.output:
                    stack.callback(part.output.register_forward_hook(self._dense_hook(turn, wires[0])).remove)
                    continue
                for wire in wires:
                    stack.callback(self._hook_block(turn, wire).remove)
                stack.callback(part.output.register_forward_hook(self._output_hook(turn)).remove)
            yield self

    def _wire(self, part: FeedForward, is_scaled: NDArray[np.bool_]) -> tuple[_Wire, ...]:
        place = self.neurons.of_layer(part.layer)
        index = self.neurons.index[place]
        wires = []
        for block in part.blocks:
            low, high = np.searchsorted(index, [block.offset, block.offset + block.width])
            if low < high:
                columns = torch.from_numpy(index[low:high] - block.offset).to(self.device)
                scaled = torch.from_numpy(is_scaled[place][low:high]).to(self.device)
                wires.append(_Wire(block, columns, scaled))
        return tuple(wires)

    def _whole_places(self) -> Tensor:
        """Where the selected neurons stand when the blocks' inputs are joined whole (routed blocks: selected) [K]."""
        places, start = [], 0
        for wire in (wire for wires in self._wires for wire in wires):
            is_routed = wire.block.is_routed
            inside = torch.arange(len(wire.columns), device=self.device) if is_routed else wire.columns
            places.append(start + inside)
            start += len(wire.columns) if is_routed else wire.block.width
        return torch.cat(places)

    def _hook_block(self, turn: int, wire: _Wire) -> torch.utils.hooks.RemovableHandle:
        if wire.block.is_routed:
            return wire.block.module.register_forward_hook(self._experts_hook(turn, wire), with_kwargs=True)
        return wire.block.module.register_forward_pre_hook(self._input_hook(turn, wire))

    def _keep_input(self, z: Tensor, columns: Tensor) -> None:
        # A single column is kept whole: one operation over all layers afterwards is cheaper than one a layer. A longer
        # input is reduced at once, or all layers' activations would stay alive.
        self._z.append(z if z.shape[1] == 1 else z[:, -self._last :].index_select(-1, columns))

    def _keep_output(self, h: Tensor) -> None:
        self._is_step = h.shape[1] == 1
        self._h.append(h if self._is_step else h_norm(h[:, -self._last :]))

    def _dense_hook(self, turn: int, wire: _Wire) -> _Hook:
        columns, turns = wire.columns, (turn, turn)

        def read(_module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            self._turns.extend(turns)
            self._keep_input(args[0], columns)
            self._keep_output(output)

        return read

    def _input_hook(self, turn: int, wire: _Wire) -> _Hook:
        columns, scaled_columns = wire.columns, wire.scaled_columns
        has_scaled = len(scaled_columns) > 0

        def read_and_scale(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
            self._turns.append(turn)
            self._keep_input(args[0], columns)
            if self._alphas is None or not has_scaled:
                return None
            return (suppress(args[0], scaled_columns, self._alphas),)

        return read_and_scale

    def _experts_hook(self, turn: int, wire: _Wire) -> _Hook:
        columns, scaled_columns = wire.columns, wire.scaled_columns
        has_scaled = len(scaled_columns) > 0

        def read_and_scale(
            module: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor], output: Tensor
        ) -> Tensor | None:
            self._turns.append(turn)
            given = experts_input(args, kwargs)
            z = read_experts(module, columns, *last_columns(given, self._rows, self._last))
            self._z.append(z.view(self._rows, -1, len(columns)))
            if self._alphas is None or not has_scaled:
                return None
            scaled = read_experts(module, scaled_columns, *given).view(self._rows, -1, len(scaled_columns))
            removed = (scaled * (1 - self._alphas)).to(scaled.dtype).flatten(0, 1)
            return output - write_experts(module, scaled_columns, removed)

        return read_and_scale

    def _output_hook(self, turn: int) -> _Hook:
        def read_norm(_module: nn.Module, _args: tuple[Tensor], output: Tensor) -> None:
            self._turns.append(turn)
            self._keep_output(output)

        return read_norm
