"""CETT of routed neurons: the experts of a mixture-of-experts layer, whose down projections run fused.

transformers keeps the experts of a layer as two tensors and one forward, so there is no module whose input is z. It is
computed again here, for the wanted neurons only, from what the experts module is given.

A routed neuron (e, i) has j = e * I + i. Its z is the routing weight of expert e times the expert's own activation, and
0 where the token did not choose e; so is its CETT. The norm that divides is that of h, the output of the whole block
(routed and shared experts together): CETT stays the share of a neuron's write in what the layer writes.
"""

from collections.abc import Callable, Mapping
from typing import cast

from torch import Tensor, nn

from probes.cett import column_norms

ExpertsInput = tuple[Tensor, Tensor, Tensor]
"""What a fused experts module is given, the tokens of all rows in one line: hidden states [tokens, D], chosen experts
[tokens, top_k] and their routing weights [tokens, top_k]."""


def experts_input(args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> ExpertsInput:
    """The arguments of a call of an experts module, given by position or by transformers' names."""
    given = dict(zip(("hidden_states", "top_k_index", "top_k_weights"), args, strict=False)) | dict(kwargs)
    return given["hidden_states"], given["top_k_index"], given["top_k_weights"]


def last_columns(given: ExpertsInput, rows: int, columns: int) -> ExpertsInput:
    """The part of the last `columns` of each of the `rows`; 0 for all columns."""
    x, chosen, routing = (part.view(rows, -1, part.shape[-1])[:, -columns:].flatten(0, 1) for part in given)
    return x, chosen, routing


def expert_norms(experts: nn.Module, columns: Tensor) -> Tensor:
    """norm(W_down[e][:, i]) of routed neurons [k], at least float32."""
    expert, inner = _split(experts, columns)
    return column_norms(_weights(experts)[1][expert, :, inner].T)


def read_experts(experts: nn.Module, columns: Tensor, x: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Compute z of routed neurons.

    Args:
        experts: A fused experts module (`gate_up_proj` [E, 2I, D], `down_proj` [E, D, I]).
        columns: j of the wanted neurons [k].
        x: Hidden states [tokens, D].
        top_k_index: Chosen experts [tokens, top_k].
        top_k_weights: Their routing weights [tokens, top_k].

    Returns:
        [tokens, k], routing weight included, 0 where the expert was not chosen.
    """
    expert, inner = _split(experts, columns)
    gate_up, down = _weights(experts)
    n_experts, _, width = down.shape
    activate = cast("Callable[[Tensor], Tensor]", experts.act_fn)
    gate = x @ gate_up[expert, inner].T
    up = x @ gate_up[expert, width + inner].T
    routing = top_k_weights.new_zeros(len(x), n_experts).scatter_add_(1, top_k_index, top_k_weights)
    return activate(gate) * up * routing[:, expert].to(gate.dtype)


def write_experts(experts: nn.Module, columns: Tensor, z: Tensor) -> Tensor:
    """What these routed neurons write to the output of the experts [tokens, D], for z [tokens, k]."""
    expert, inner = _split(experts, columns)
    return z @ _weights(experts)[1][expert, :, inner].to(z.dtype)


def _split(experts: nn.Module, columns: Tensor) -> tuple[Tensor, Tensor]:
    width = _weights(experts)[1].shape[2]
    return columns // width, columns % width


def _weights(experts: nn.Module) -> tuple[Tensor, Tensor]:
    gate_up, down = experts.gate_up_proj, experts.down_proj
    assert isinstance(gate_up, Tensor)
    assert isinstance(down, Tensor)
    return gate_up, down
