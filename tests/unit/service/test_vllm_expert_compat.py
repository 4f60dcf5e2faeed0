"""Experts of vLLM's that work otherwise than the taps expect are refused."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from service.engines.vllm_plugin.compat import IncompatibleVllmError, check_experts
from tests.unit.service.routed_layer import Routed


class MoERunner:
    """What `check_experts` reads of vLLM's."""

    def __init__(self) -> None:
        self.routed_experts = Routed()
        self.routed_experts.quant_method = SimpleNamespace(is_monolithic=False)
        self.routed_experts.activation = SimpleNamespace(value="silu")
        self.routed_experts.apply_router_weight_on_input = False
        self.routed_input_transform = self.routed_output_transform = None
        self.routed_scaling_factor = 2.5
        self.moe_config = SimpleNamespace(
            has_bias=False,
            dp_size=1,
            skip_final_all_reduce=False,
            is_sequence_parallel=False,
            in_dtype=torch.bfloat16,
            moe_parallel_config=SimpleNamespace(enable_eplb=False, use_ep=False),
        )


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("routed_experts.quant_method.is_monolithic", True, "moe_backend"),
        ("routed_experts.activation.value", "gelu", "activation gelu"),
        ("routed_experts.apply_router_weight_on_input", True, "on the input"),
        ("routed_input_transform", nn.Identity(), "projections"),
        ("routed_output_transform", nn.Identity(), "projections"),
        ("moe_config.has_bias", True, "biases"),
        ("moe_config.dp_size", 2, "data_parallel_size"),
        ("moe_config.skip_final_all_reduce", True, "not summed"),
        ("moe_config.is_sequence_parallel", True, "not summed"),
        ("moe_config.in_dtype", torch.float16, "float16"),
        ("moe_config.moe_parallel_config.enable_eplb", True, "enable_eplb"),
        ("moe_config.moe_parallel_config.use_ep", True, "enable_expert_parallel"),
    ],
)
def test_hazard_experts_that_work_otherwise_are_refused(path, value, word):
    check_experts("experts", MoERunner(), "1.0")
    module = MoERunner()
    *parts, last = path.split(".")
    owner = module
    for part in parts:
        owner = getattr(owner, part)
    setattr(owner, last, value)
    with pytest.raises(IncompatibleVllmError, match=f"experts of this model.*{word}"):
        check_experts("experts", module, "1.0")


def test_hazard_another_vllm_runs_experts_otherwise():
    module = MoERunner()
    module.routed_experts = nn.Linear(2, 2)
    with pytest.raises(IncompatibleVllmError, match=r"vLLM 1\.0: experts is a MoERunner .* install one of those"):
        check_experts("experts", module, "1.0")
    with pytest.raises(IncompatibleVllmError, match=r"experts is a Linear"):
        check_experts("experts", nn.Linear(2, 2), "1.0")
