"""The tapped down projection: pure torch operations on persistent buffers, so that it compiles into vLLM's graph."""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from probes.cett import h_norm
from service.engines.vllm_plugin.buffers import LayerBuffers


class EagerSwitch:
    """Lets eager passes leave out what no row needs; a compiled graph always runs everything."""

    scales = True
    reads = True


def tap_module(down: nn.Module, buffers: LayerBuffers, switch: EagerSwitch) -> None:
    """Make a down projection keep z and norm(h), and scale its neurons, on every pass.

    Args:
        down: A row-parallel linear layer of vLLM: z [rows, M] -> h [rows, D], whole on every rank.
        buffers: Of this layer.
        switch: Shared by all layers.
    """
    down.hguard = buffers
    untapped = type(down).forward

    def forward(self: nn.Module, input_: Tensor) -> Any:
        taps: LayerBuffers = self.hguard  # type: ignore[assignment]
        is_compiling = torch.compiler.is_compiling()
        if not (is_compiling or switch.reads or switch.scales):
            return untapped(self, input_)
        rows = input_.shape[0]
        z, norm = taps.z[:rows], taps.h_norm[:rows]
        if is_compiling:
            z.copy_(input_.index_select(1, taps.index))
        else:
            torch.index_select(input_, 1, taps.index, out=z)
        if is_compiling or switch.scales:
            factor = 1 + (taps.alpha[:rows] - 1) * taps.scaled.index_select(0, taps.bank[:rows])
            input_ = input_.index_copy(1, taps.index, (z * factor).to(z.dtype))
        result = untapped(self, input_)
        h = result[0] if isinstance(result, tuple) else result
        if is_compiling:
            norm.copy_(h_norm(h))
        else:
            h_norm(h, out=norm)
        return result

    down.forward = MethodType(forward, down)
