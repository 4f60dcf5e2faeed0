"""A hook that keeps the residual stream after one decoder layer: what the linear heads beside the neurons read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from probes.architectures import decoder_layers
from probes.tap import TapError


class ResidualTap:
    """Keeps the stream of the last fed columns, for one model; used like `probes.tap.HeadTap`.

    With suppressed neurons at or before the layer it is the stream that the suppressed model computes with.
    """

    def __init__(self, model: nn.Module, layer: int) -> None:
        """Find the layer.

        Args:
            model: A supported model (see `probes.architectures`).
            layer: Counted from 0; the stream is read after it.

        Raises:
            UnsupportedArchitectureError: The model's class is not in the table.
            ValueError: The model has no such layer.
        """
        layers = decoder_layers(model)
        if not 0 <= layer < len(layers):
            raise ValueError(f"residual stream after layer {layer}: the model has layers 0 to {len(layers) - 1}")
        self.layer = layer
        self.module = layers[layer]
        self._last = 1
        self._is_open = False
        self._kept: list[Tensor] = []

    def begin(self, last: int | None = 1) -> None:
        """Prepare for the next forward pass.

        Args:
            last: How many of the last fed columns are kept; None for all.
        """
        self._last = last or 0
        self._kept, self._is_open = [], True

    def read(self) -> Tensor:
        """The stream of the pass since `begin` [B, Q, D], in the model's type.

        Raises:
            TapError: The layer did not run, or ran twice.
        """
        kept, self._kept, self._is_open = self._kept, [], False
        if len(kept) != 1:
            raise TapError(f"layer {self.layer} ran {len(kept)} times in one pass: its stream may not be used")
        return kept[0]

    @contextmanager
    def attached(self) -> Iterator["ResidualTap"]:
        """Hook the model; unhooked on leaving."""
        handle = self.module.register_forward_hook(self._keep)
        try:
            yield self
        finally:
            handle.remove()

    def _keep(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self._is_open:
            self._kept.append((output[0] if isinstance(output, tuple) else output)[:, -self._last :])
