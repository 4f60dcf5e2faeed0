"""Tapped routed experts: they run in one fused kernel, where no z appears, so z of the slots is computed beside it.

    z = routing weight * act(x @ gate) * (x @ up), 0 where the row did not choose the neuron's expert

from the input and the routing that the kernel is given. Under an alpha the kernel's output gets (alpha - 1) * z times
the neuron's column of W_down. Pure torch operations on persistent buffers. On CUDA all of it runs inside of vLLM's
custom operation around the kernel, so a compiled graph cannot move it, and a captured one holds it.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from service.engines.vllm_plugin.buffers import ExpertBuffers
from service.engines.vllm_plugin.wires import EagerSwitch, is_recorded


def tap_experts(experts: nn.Module, buffers: ExpertBuffers, switch: EagerSwitch, *, scale: float = 1.0) -> None:
    """Make the routed experts of a layer keep z, and scale their neurons, on every pass.

    Args:
        experts: vLLM's `RoutedExperts`: x [rows, D], routing weights and chosen experts [rows, top_k] -> [rows, D].
        buffers: Of this block.
        switch: Shared by all blocks.
        scale: What the layer multiplies the output of the experts by afterwards: a part of the routing weight.
    """
    experts.hguard = buffers
    untapped = type(experts).forward_modular  # type: ignore[attr-defined]

    def forward_modular(
        self: nn.Module, x: Tensor, topk_weights: Tensor, topk_ids: Tensor, *args: Any, **options: Any
    ) -> Any:
        is_always = is_recorded(x)
        if not (is_always or switch.reads or switch.scales):
            return untapped(self, x, topk_weights, topk_ids, *args, **options)
        taps: ExpertBuffers = self.hguard  # type: ignore[assignment]
        rows = x.shape[0]
        z = _slots_z(taps, x, topk_weights, topk_ids)  # first: the kernel may write its output over x
        taps.z[:rows].copy_(z * scale)
        h = untapped(self, x, topk_weights, topk_ids, *args, **options)
        if is_always or switch.scales:
            change = (taps.alpha[:rows] - 1) * taps.scaled.index_select(0, taps.bank[:rows])
            h = h + (z * change).to(z.dtype) @ taps.down
        return h

    experts.forward_modular = MethodType(forward_modular, experts)  # type: ignore[assignment]


def _slots_z(taps: ExpertBuffers, x: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> Tensor:
    """The z of every slot [rows, S], routing weight included."""
    is_chosen = topk_ids[:, :, None] == taps.expert
    routing = torch.where(is_chosen, topk_weights[:, :, None], 0).sum(1)
    return silu(x @ taps.gate.T) * (x @ taps.up.T) * routing.to(x.dtype)
