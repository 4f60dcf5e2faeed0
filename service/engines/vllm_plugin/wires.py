"""The tapped down projection: pure torch operations on persistent buffers, so that it compiles into vLLM's graph.

Where a layer is a mixture of experts, another module's output is h: its norm is kept by `tap_output`.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from probes.cett import h_norm
from service.engines.vllm_plugin.buffers import LayerBuffers


class EagerSwitch:
    """Lets eager passes leave out what no row needs, and do later what can wait; a recorded graph does everything."""

    scales = True
    reads = True

    def __init__(self) -> None:
        self.later: list[tuple[LayerBuffers, Tensor, Tensor]] = []
        """z and norm(h) of small passes: each operation between the layers costs much more than its arithmetic."""

    def collect(self) -> None:
        """After the pass: bring what was left for later into the buffers."""
        for taps, z, norm in self.later:
            torch.index_select(z, 1, taps.index, out=taps.z[: len(z)])
            taps.h_norm[: len(z)].copy_(norm)
        self.later.clear()


_LATER_ROWS = 64
"""Rows of a pass whose z can all be held until it ends."""


def tap_module(down: nn.Module, buffers: LayerBuffers, switch: EagerSwitch, *, gives_h: bool = True) -> None:
    """Make a down projection keep z and norm(h), and scale its neurons, on every pass.

    Args:
        down: A row-parallel linear layer of vLLM: z [rows, M] -> h [rows, D], whole on every rank.
        buffers: Of this block.
        switch: Shared by all blocks.
        gives_h: The output is h; otherwise it is a part of it, and no norm is kept.
    """
    down.hguard = buffers
    untapped = type(down).forward

    def forward(self: nn.Module, input_: Tensor) -> Any:
        if input_.dim() == 3:  # vLLM's back end for models of transformers feeds [1, rows, M]
            return _with_batch(forward(self, input_[0]))
        taps: LayerBuffers = self.hguard  # type: ignore[assignment]
        rows = input_.shape[0]
        if is_recorded(input_):
            z = taps.z[:rows]
            z.copy_(input_.index_select(1, taps.index))
            result = untapped(self, _scale(input_, z, taps))
            if gives_h:
                taps.h_norm[:rows].copy_(h_norm(_h_of(result)))
            return result
        if not (switch.reads or switch.scales):
            return untapped(self, input_)
        if gives_h and not switch.scales and rows <= _LATER_ROWS:
            result = untapped(self, input_)
            switch.later.append((taps, input_, h_norm(_h_of(result))))
            return result
        z = taps.z[:rows]
        torch.index_select(input_, 1, taps.index, out=z)
        result = untapped(self, _scale(input_, z, taps) if switch.scales else input_)
        if gives_h:
            h_norm(_h_of(result), out=taps.h_norm[:rows])
        return result

    down.forward = MethodType(forward, down)


def tap_output(block: nn.Module, h_norms: Tensor, switch: EagerSwitch) -> None:
    """Make a mixture-of-experts block keep the norm of its output on every pass.

    Args:
        block: Routed and shared experts of a layer of vLLM: [rows, D] -> h [rows, D], whole on every rank.
        h_norms: Where norm(h) goes, once for each part of the layer that holds neurons [parts, rows, 1].
        switch: Shared by all blocks.
    """
    block.register_buffer("hguard_norms", h_norms, persistent=False)
    untapped = type(block).forward

    def forward(self: nn.Module, *args: Any, **options: Any) -> Tensor:
        h: Tensor = untapped(self, *args, **options)
        if switch.reads or is_recorded(h):
            norms: Tensor = self.hguard_norms  # type: ignore[assignment]
            norms[:, : h.shape[0]].copy_(h_norm(h))
        return h

    block.forward = MethodType(forward, block)


def tap_stream(layer: nn.Module, stream: Tensor, weights: Tensor, switch: EagerSwitch) -> None:
    """Make a decoder layer keep what the heads read of the residual stream after it, on every pass.

    Args:
        layer: A decoder layer of vLLM, which returns the stream [rows, D] or two terms of it.
        stream: Where the readings go [rows, banks, N].
        weights: Of the heads [D, banks, N].
        switch: Shared by all taps.
    """
    layer.register_buffer("hguard_stream", stream, persistent=False)
    layer.register_buffer("hguard_stream_weights", weights, persistent=False)
    untapped = type(layer).forward

    def forward(self: nn.Module, *args: Any, **options: Any) -> Any:
        result = untapped(self, *args, **options)
        x = result[0] + result[1] if isinstance(result, tuple) else result
        if switch.reads or is_recorded(x):
            x = x.flatten(0, -2).float()
            kept: Tensor = self.hguard_stream  # type: ignore[assignment]
            heads: Tensor = self.hguard_stream_weights  # type: ignore[assignment]
            kept[: x.shape[0]].copy_((x @ heads.flatten(1)).view(-1, *heads.shape[1:]))
        return result

    layer.forward = MethodType(forward, layer)


def is_recorded(rows: Tensor) -> bool:
    """Whether operations on these rows are being compiled or captured, and will run in every later pass."""
    return torch.compiler.is_compiling() or (rows.is_cuda and torch.cuda.is_current_stream_capturing())


def _scale(input_: Tensor, z: Tensor, taps: LayerBuffers) -> Tensor:
    """The input with the neurons that each row's bank names multiplied by the row's alpha."""
    rows = input_.shape[0]
    factor = 1 + (taps.alpha[:rows] - 1) * taps.scaled.index_select(0, taps.bank[:rows])
    return input_.index_copy(1, taps.index, (z * factor).to(z.dtype))


def _h_of(result: Any) -> Tensor:
    h: Tensor = result[0] if isinstance(result, tuple) else result
    return h


def _with_batch(result: Any) -> Any:
    return (result[0][None], *result[1:]) if isinstance(result, tuple) else result[None]
