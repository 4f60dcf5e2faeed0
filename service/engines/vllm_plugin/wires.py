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
    """Lets eager passes leave out what no row needs; a compiled or captured graph always runs everything."""

    scales = True
    reads = True


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
        taps: LayerBuffers = self.hguard  # type: ignore[assignment]
        is_recorded = torch.compiler.is_compiling() or (input_.is_cuda and torch.cuda.is_current_stream_capturing())
        if not (is_recorded or switch.reads or switch.scales):
            return untapped(self, input_)
        rows = input_.shape[0]
        z, norm = taps.z[:rows], taps.h_norm[:rows]
        if is_recorded:
            z.copy_(input_.index_select(1, taps.index))
        else:
            torch.index_select(input_, 1, taps.index, out=z)
        if is_recorded or switch.scales:
            factor = 1 + (taps.alpha[:rows] - 1) * taps.scaled.index_select(0, taps.bank[:rows])
            input_ = input_.index_copy(1, taps.index, (z * factor).to(z.dtype))
        result = untapped(self, input_)
        if not gives_h:
            return result
        h = result[0] if isinstance(result, tuple) else result
        if is_recorded:
            norm.copy_(h_norm(h))
        else:
            h_norm(h, out=norm)
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
        if torch.compiler.is_compiling() or switch.reads:
            norms: Tensor = self.hguard_norms  # type: ignore[assignment]
            norms[:, : h.shape[0]].copy_(h_norm(h))
        return h

    block.forward = MethodType(forward, block)
