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

from probes.cett import cett_of_norm, h_norm, suppress
from probes.experts import experts_input, last_columns, read_experts, write_experts
from probes.neurons import NeuronSet
from probes.wires import Wire, wire_layers

_Hook = Callable[..., Tensor | tuple[Tensor, ...] | None]


class TapError(RuntimeError):
    """A tapped layer did not run as expected: nothing that was read may be used."""


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

    Hooks sit on layers that hold a selected neuron, and nowhere else. One forward pass at a time, and outside of
    `begin` ... `read` the hooks do nothing:

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
        self.neurons = neurons
        self.device = next(model.parameters()).device
        self._layers = wire_layers(model, neurons, suppressed)
        wires = [wire for layer in self._layers for wire in layer.wires]
        self.norms = torch.cat([wire.norms() for wire in wires]).detach()
        """norm(W_down[:, j]) of the neurons [K], at least float32, from the loaded weights."""
        layer_of = np.searchsorted([layer.part.layer for layer in self._layers], neurons.layer)
        self._layer_of = torch.from_numpy(layer_of).to(self.device)
        self._places = _whole_places(wires)
        self._expected = [turn for turn, layer in enumerate(self._layers) for _ in (*layer.wires, "h")]
        self._scales = False
        self._is_open = False
        self._rows, self._last = 0, 1
        self._is_step = False
        """The pass fed one column: z and h were kept whole."""
        self._alphas: Tensor | None = None
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
        self._rows, self._is_step, self._is_open = rows, False, True
        self._alphas = None if alphas is None else alphas.to(self.device)[:, None, None]
        self._last = last or 0  # [-0:] is everything
        self._z, self._h, self._turns = [], [], []

    def read(self) -> Reading:
        """The CETT of the pass since `begin`.

        Raises:
            TapError: A tapped layer did not run, ran twice, or not in its turn.
        """
        z_parts, h_parts, turns = self._z, self._h, self._turns
        self._z, self._h, self._turns, self._is_open = [], [], [], False
        if turns != self._expected:
            seen, wanted = ([self._layers[at].part.layer for at in some] for some in (turns, self._expected))
            raise TapError(
                f"taps ran on layers {seen} instead of {wanted} (each once a block and once for h): "
                "the model's layers are not the ones that were tapped, so nothing that was read may be used"
            )
        z = torch.cat(z_parts, dim=-1)
        if self._is_step:
            z = z.index_select(-1, self._places)
            norm = h_norm(torch.cat(h_parts, dim=1)).transpose(1, 2)
        else:
            norm = torch.cat(h_parts, dim=-1)
        return Reading(cett_of_norm(z, norm.index_select(-1, self._layer_of), self.norms))

    @contextmanager
    def attached(self, *, scales: bool = True) -> Iterator["HeadTap"]:
        """Hook the model; unhooked on leaving. Without `scales` no alphas can be given, and fewer hooks do."""
        with ExitStack() as stack:
            for turn, layer in enumerate(self._layers):
                if layer.is_plain and not scales:
                    hook = self._plain_hook(turn, layer.wires[0])
                    stack.callback(layer.part.output.register_forward_hook(hook).remove)
                    continue
                for wire in layer.wires:
                    stack.callback(self._hook_block(turn, wire).remove)
                stack.callback(layer.part.output.register_forward_hook(self._output_hook(turn)).remove)
            self._scales = scales
            yield self

    def _hook_block(self, turn: int, wire: Wire) -> torch.utils.hooks.RemovableHandle:
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

    def _plain_hook(self, turn: int, wire: Wire) -> _Hook:
        columns, turns = wire.columns, (turn, turn)

        def read(_module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            if self._is_open:
                self._turns += turns
                self._keep_input(args[0], columns)
                self._keep_output(output)

        return read

    def _input_hook(self, turn: int, wire: Wire) -> _Hook:
        def read_and_scale(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
            if not self._is_open:
                return None
            self._turns.append(turn)
            self._keep_input(args[0], wire.columns)
            if self._alphas is None or not len(wire.scaled_columns):
                return None
            return (suppress(args[0], wire.scaled_columns, self._alphas),)

        return read_and_scale

    def _experts_hook(self, turn: int, wire: Wire) -> _Hook:
        def read_and_scale(
            module: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor], output: Tensor
        ) -> Tensor | None:
            if not self._is_open:
                return None
            self._turns.append(turn)
            given = experts_input(args, kwargs)
            z = read_experts(module, wire.columns, *last_columns(given, self._rows, self._last))
            self._z.append(z.view(self._rows, -1, len(wire.columns)))
            if self._alphas is None or not len(wire.scaled_columns):
                return None
            scaled = read_experts(module, wire.scaled_columns, *given).view(self._rows, -1, len(wire.scaled_columns))
            removed = (scaled * (1 - self._alphas)).to(scaled.dtype).flatten(0, 1)
            return output - write_experts(module, wire.scaled_columns, removed)

        return read_and_scale

    def _output_hook(self, turn: int) -> _Hook:
        def read_norm(_module: nn.Module, _args: tuple[Tensor], output: Tensor) -> None:
            if self._is_open:
                self._turns.append(turn)
                self._keep_output(output)

        return read_norm


def _whole_places(wires: Sequence[Wire]) -> Tensor:
    """Where the selected neurons stand when the blocks' inputs are joined whole (routed ones: as selected) [K]."""
    places, start = [], 0
    for wire in wires:
        is_routed = wire.block.is_routed
        places.append(start + (torch.arange(len(wire.columns)).to(wire.columns) if is_routed else wire.columns))
        start += len(wire.columns) if is_routed else wire.block.width
    return torch.cat(places)
