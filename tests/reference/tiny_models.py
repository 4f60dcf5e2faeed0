"""Every supported architecture as a tiny model of random weights, through the real transformers classes."""

from functools import cache

import torch
import transformers
from torch import nn

VOCABULARY = 96
WINDOW = 6

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}

_OWN: dict[str, dict[str, object]] = {
    "Llama": {},
    "Mistral": {"sliding_window": WINDOW},
    "Gemma2": {"sliding_window": WINDOW, "query_pre_attn_scalar": 8, "tie_word_embeddings": True},
    "Gemma3": {"sliding_window": WINDOW, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
    "Qwen2": {},
    "Qwen3": {},
    "Phi3": {},
    "Olmo2": {},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3Moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
        "mlp_only_layers": [1],
    },
    "DeepseekV3": {
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "n_group": 2,
        "topk_group": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "routed_scaling_factor": 2.5,
    },
}

ARCHITECTURES = tuple(_OWN)
MIXTURES = ("Mixtral", "Qwen3Moe", "DeepseekV3")
WINDOWED = ("Mistral", "Gemma2", "Gemma3")


def tiny_config(name: str, **changes: object) -> transformers.PretrainedConfig:
    """The configuration of one architecture."""
    config_class = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")
    return config_class(**{**_COMMON, **_OWN[name], **changes})


def build_tiny(name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: object) -> nn.Module:
    """A new model; weights are large enough that every layer matters in the output."""
    config = tiny_config(name, **changes)
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}ForCausalLM")(config).to(dtype).eval().requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
        parameter.copy_(1 + 0.1 * noise if "norm" in parameter_name else 0.25 * noise)
    return model


@cache
def shared_tiny(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """One model for all tests that do not change it."""
    model = build_tiny(name, dtype=dtype)
    if dtype == torch.float64 and name in MIXTURES:
        model.set_experts_implementation("eager")  # the fused kernels know no float64
    return model
