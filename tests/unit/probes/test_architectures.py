import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from probes.architectures import SUPPORTED, UnsupportedArchitectureError, feed_forwards, layer_widths
from tests.reference.tiny_models import ARCHITECTURES, build_tiny, shared_tiny


def test_every_supported_class_is_tested():
    assert {f"{name}ForCausalLM" for name in ARCHITECTURES} == set(SUPPORTED)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_blocks_cover_every_neuron_of_every_layer_once(name):
    model = shared_tiny(name)
    parts = feed_forwards(model)
    assert [part.layer for part in parts] == list(range(model.config.num_hidden_layers))
    for part in parts:
        assert [block.offset for block in part.blocks] == [
            sum(block.width for block in part.blocks[:at]) for at in range(len(part.blocks))
        ]
        for block in part.blocks:
            weight = block.module.down_proj if block.is_routed else block.module.weight
            assert block.width == weight.numel() // model.config.hidden_size


def test_widths_of_mixtures_are_routed_then_shared_and_dense_layers_their_own():
    assert layer_widths(shared_tiny("Mixtral")) == (4 * 48,) * 3
    assert layer_widths(shared_tiny("Qwen3Moe")) == (4 * 24, 48, 4 * 24)
    assert layer_widths(shared_tiny("DeepseekV3")) == (48, 4 * 24 + 2 * 24, 4 * 24 + 2 * 24)


def test_unknown_class_is_refused_and_names_the_recipe():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    with pytest.raises(UnsupportedArchitectureError, match=r"GPT2LMHeadModel.*LlamaForCausalLM.*CONTRIBUTING\.md"):
        feed_forwards(model)


def test_packed_weights_of_a_quantized_model_are_refused():
    model = build_tiny("Llama")
    packed = nn.Module()
    packed.weight = nn.Parameter(torch.zeros(32 * 24, 1, dtype=torch.uint8), requires_grad=False)
    model.model.layers[1].mlp.down_proj = packed
    with pytest.raises(UnsupportedArchitectureError, match="without quantization"):
        feed_forwards(model)


def test_experts_in_another_layout_are_refused():
    model = build_tiny("Mixtral")
    experts = model.model.layers[0].mlp.experts
    experts.down_proj = nn.Parameter(experts.down_proj.transpose(1, 2).contiguous())
    with pytest.raises(UnsupportedArchitectureError, match=r"MixtralExperts.*CONTRIBUTING\.md"):
        feed_forwards(model)
