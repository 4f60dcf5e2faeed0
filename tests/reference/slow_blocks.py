"""z and h of every layer, computed by hand from the input of each feed-forward block. An oracle: shares no code with
`probes`; knows each architecture's formula and recomputes experts one token and one expert at a time.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


@torch.no_grad()
def block_inputs(model: nn.Module, **inputs: object) -> list[Tensor]:
    """What each layer's feed-forward block is given [B, T, D]."""
    seen: list[Tensor] = []
    handles = [
        layer.mlp.register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
        for layer in model.model.layers
    ]
    try:
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@torch.no_grad()
def slow_layer_cett(mlp: nn.Module, x: Tensor) -> Tensor:
    """CETT of all neurons of one layer for one token's block input x [D]: routed neurons, then shared or dense ones."""
    parts = slow_parts(mlp, x)
    h = sum(linear(z, w_down) for z, w_down in parts)
    shares = [z.abs() * torch.stack([column.norm() for column in w_down.T]) for z, w_down in parts]
    return torch.cat(shares) / (h.norm() + 1e-8)


def slow_parts(mlp: nn.Module, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The z [M] and W_down [D, M] of each part: of every routed expert, then of the shared ones, or the dense one."""
    return _mixture_parts(mlp, x) if hasattr(mlp, "experts") else [(_dense_z(mlp, x), mlp.down_proj.weight)]


def _dense_z(mlp: nn.Module, x: Tensor) -> Tensor:
    if hasattr(mlp, "gate_up_proj"):  # Phi-3
        gate, up = linear(x, mlp.gate_up_proj.weight).chunk(2)
        return mlp.activation_fn(gate) * up
    return mlp.act_fn(linear(x, mlp.gate_proj.weight)) * linear(x, mlp.up_proj.weight)


def _mixture_parts(mlp: nn.Module, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    # DeepSeek's router flattens its input itself; one token in, one token out.
    _, routing, chosen = mlp.gate(x[None, None] if hasattr(mlp, "shared_experts") else x[None])
    experts = mlp.experts
    parts = []
    for number in range(experts.down_proj.shape[0]):
        gate, up = linear(x, experts.gate_up_proj[number]).chunk(2)
        z = torch.zeros_like(gate)
        for place, expert in enumerate(chosen[0].tolist()):
            if expert == number:
                z = experts.act_fn(gate) * up * routing[0, place]
        parts.append((z, experts.down_proj[number]))
    if hasattr(mlp, "shared_experts"):
        parts.append((_dense_z(mlp.shared_experts, x), mlp.shared_experts.down_proj.weight))
    return parts
