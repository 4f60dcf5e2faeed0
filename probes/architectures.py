"""Where each supported model class keeps its feed-forward neurons.

The table is explicit on purpose: layers are never guessed from module names. A class that is not here is an error that
names the recipe in CONTRIBUTING.md. Knows nothing of CETT or hooks.
"""

from dataclasses import dataclass
from operator import attrgetter

from torch import Tensor, nn


class UnsupportedArchitectureError(ValueError):
    """The model class, or something about this instance of it, is not in the table."""


@dataclass(frozen=True)
class NeuronBlock:
    """A module that holds neurons [offset, offset + width) of one layer."""

    module: nn.Module
    """A down projection (`nn.Linear`-like: weight [D, M]) or a fused routed-experts module."""
    offset: int
    width: int
    is_routed: bool


@dataclass(frozen=True)
class FeedForward:
    """One layer's feed-forward part."""

    layer: int
    blocks: tuple[NeuronBlock, ...]
    """In the order of the layer's j."""
    output: nn.Module
    """The module whose output is h: the down projection itself, or the whole mixture-of-experts block."""

    @property
    def width(self) -> int:
        """Neurons of this layer, M."""
        return sum(block.width for block in self.blocks)


# Model class -> the module list of its decoder layers. Each layer's feed-forward part is `.mlp`.
_LAYERS = {
    "DeepseekV3ForCausalLM": "model.layers",
    "Gemma2ForCausalLM": "model.layers",
    "Gemma3ForCausalLM": "model.layers",
    "LlamaForCausalLM": "model.layers",
    "MistralForCausalLM": "model.layers",
    "MixtralForCausalLM": "model.layers",
    "Olmo2ForCausalLM": "model.layers",
    "Phi3ForCausalLM": "model.layers",
    "Qwen2ForCausalLM": "model.layers",
    "Qwen3ForCausalLM": "model.layers",
    "Qwen3MoeForCausalLM": "model.layers",
}

SUPPORTED = tuple(sorted(_LAYERS))


def feed_forwards(model: nn.Module) -> tuple[FeedForward, ...]:
    """The feed-forward part of every decoder layer, in layer order.

    Raises:
        UnsupportedArchitectureError: The class is not in the table.
    """
    layers = decoder_layers(model)
    return tuple(_feed_forward(layer, decoder_layer.get_submodule("mlp")) for layer, decoder_layer in enumerate(layers))


def decoder_layers(model: nn.Module) -> tuple[nn.Module, ...]:
    """The decoder layers in their order; what each puts out is the residual stream after it [B, T, D].

    Raises:
        UnsupportedArchitectureError: The class is not in the table.
    """
    name = type(model).__name__
    if name not in _LAYERS:
        raise UnsupportedArchitectureError(
            f"{name} is not a supported architecture ({', '.join(SUPPORTED)}); "
            'to add one follow "Adding an architecture" in CONTRIBUTING.md'
        )
    return tuple(attrgetter(_LAYERS[name])(model))


def layer_widths(model: nn.Module) -> tuple[int, ...]:
    """Neurons of each layer, M."""
    return tuple(part.width for part in feed_forwards(model))


def _feed_forward(layer: int, mlp: nn.Module) -> FeedForward:
    if not hasattr(mlp, "experts"):
        down = mlp.get_submodule("down_proj")
        return FeedForward(layer, (_linear_block(down, 0),), output=down)
    experts = mlp.get_submodule("experts")
    routed = _routed_width(experts)
    blocks = [NeuronBlock(experts, offset=0, width=routed, is_routed=True)]
    if hasattr(mlp, "shared_experts"):
        blocks.append(_linear_block(mlp.get_submodule("shared_experts.down_proj"), routed))
    return FeedForward(layer, tuple(blocks), output=mlp)


def _linear_block(down: nn.Module, offset: int) -> NeuronBlock:
    weight = down.weight
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise UnsupportedArchitectureError(
            f"{type(down).__name__} packs its weight; column norms need plain [D, M] floating-point weights: "
            "load the model without quantization"
        )
    return NeuronBlock(down, offset, width=int(weight.shape[1]), is_routed=False)


def _routed_width(experts: nn.Module) -> int:
    """Neurons of all routed experts together, where they lie as `probes.experts` computes with them."""
    gate_up, down = getattr(experts, "gate_up_proj", None), getattr(experts, "down_proj", None)
    if isinstance(gate_up, Tensor) and isinstance(down, Tensor) and down.ndim == 3 and down.is_floating_point():
        n_experts, size, width = down.shape
        if gate_up.shape == (n_experts, 2 * width, size):
            return int(n_experts * width)
    raise UnsupportedArchitectureError(
        f"{type(experts).__name__} does not keep its experts as gate_up_proj [E, 2I, D] and down_proj [E, D, I] in "
        'floating point; follow "Adding an architecture" in CONTRIBUTING.md'
    )
