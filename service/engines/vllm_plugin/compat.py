"""What of vLLM is used beyond its public interface, and the modes in which the taps would be wrong.

Checked when a worker starts: a vLLM that has changed is refused by name, it never scores quietly wrong.
"""

import inspect
from collections.abc import Callable
from typing import Any

SUPPORTED_VLLM = "0.25.1 to 0.32"


class IncompatibleVllmError(RuntimeError):
    """This vLLM, or this mode of it, cannot be tapped."""


def check_runner(runner: type, version: str) -> None:
    """Every overridden method takes what we pass on, every attribute is there.

    Args:
        runner: The class of the model runner.
        version: Of vLLM, for the message.

    Raises:
        IncompatibleVllmError: Naming what has changed.
    """
    wanted = {
        "_prepare_inputs": ["self", "scheduler_output", "num_scheduled_tokens"],
        "_sample": ["self", "logits", "spec_decode_metadata"],
        "_get_prompt_logprobs_dict": ["self", "hidden_states", "num_scheduled_tokens"],
        "_sync_device": ["self"],
    }
    for name, parameters in wanted.items():
        method: Callable[..., Any] | None = getattr(runner, name, None)
        found = list(inspect.signature(method).parameters) if method else None
        if found != parameters:
            raise IncompatibleVllmError(
                f"vLLM {version}: {runner.__module__}.{runner.__name__}.{name} takes {found}, expected {parameters}; "
                f"this hguard supports vLLM {SUPPORTED_VLLM} with the V1 model runner: install one of those"
            )


def check_instance(runner: Any, version: str) -> None:
    """The attributes of a running model runner.

    Raises:
        IncompatibleVllmError: Naming what is missing.
    """
    for path in (
        "sampler.compute_logprobs",
        "sampler.gather_logprobs",
        "input_batch.sampling_metadata.all_greedy",
        "input_batch.req_ids",
        "input_batch.req_id_to_index",
        "requests",
        "num_prompt_logprobs",
        "query_start_loc.np",
        "model.compute_logits",
    ):
        found = runner
        for name in path.split("."):
            if not hasattr(found, name):
                raise IncompatibleVllmError(
                    f"vLLM {version}: the model runner has no {path}; this hguard supports vLLM {SUPPORTED_VLLM}: "
                    "install one of those"
                )
            found = getattr(found, name)


def check_mode(vllm_config: Any) -> None:
    """Refuse what would run and score wrongly.

    Raises:
        IncompatibleVllmError: Naming the setting to change.
    """
    parallel, speculative = vllm_config.parallel_config, vllm_config.speculative_config
    refusals = {
        "pipeline_parallel_size > 1 (layers and sampler would be in different processes)": (
            parallel.pipeline_parallel_size > 1
        ),
        "enable_dbo or ubatch_size > 1 (part batches share the row buffers)": parallel.use_ubatching,
        "prefill or decode context parallelism (rows are spread over ranks)": (
            getattr(parallel, "decode_context_parallel_size", 1) > 1
            or getattr(parallel, "prefill_context_parallel_size", 1) > 1
        ),
        "LoRA (down projections are wrapped)": vllm_config.lora_config is not None,
        "logprobs_mode other than raw_logprobs": vllm_config.model_config.logprobs_mode != "raw_logprobs",
        "speculative decoding other than ngram (the drafter's own passes run through tapped layers)": (
            speculative is not None and speculative.method != "ngram"
        ),
        "quantized weights (kernels may fuse the activation away)": vllm_config.quant_config is not None,
        "kv_sharing_fast_prefill": bool(getattr(vllm_config.cache_config, "kv_sharing_fast_prefill", False)),
    }
    for mode, is_on in refusals.items():
        if is_on:
            raise IncompatibleVllmError(f"the guard does not support {mode}: turn it off in HGUARD_VLLM_ARGS")


def check_layer(name: str, module: Any, *, gives_h: bool = True) -> None:
    """The module is a row-parallel linear layer that gives h whole, or a part of h.

    Raises:
        IncompatibleVllmError: It is something else.
    """
    missing = [
        part
        for part in ("input_size_per_partition", "input_is_parallel", "reduce_results", "tp_size")
        if not hasattr(module, part)
    ]
    if missing:
        raise IncompatibleVllmError(f"{name} is a {type(module).__name__} without {', '.join(missing)}: not supported")
    if not module.input_is_parallel or (gives_h and module.tp_size > 1 and not module.reduce_results):
        raise IncompatibleVllmError(f"{name} does not return the whole h on every rank: not supported")


def check_experts(name: str, module: Any, version: str) -> None:
    """The module gives routing and input of its experts to `forward_modular`, and its layer returns the whole h.

    Args:
        name: Of the module.
        module: What runs the routed experts of a layer.
        version: Of vLLM, for the message.

    Raises:
        IncompatibleVllmError: It is something else, or works in another way.
    """
    experts = getattr(module, "routed_experts", None)
    method: Callable[..., Any] | None = getattr(type(experts), "forward_modular", None)
    found = list(inspect.signature(method).parameters)[:4] if method else None
    if found != ["self", "x", "topk_weights", "topk_ids"]:
        raise IncompatibleVllmError(
            f"vLLM {version}: {name} is a {type(module).__name__} whose routed_experts.forward_modular takes {found}; "
            f"this hguard supports vLLM {SUPPORTED_VLLM}: install one of those, or use HGUARD_ENGINE=transformers"
        )
    assert experts is not None
    layout = module.moe_config
    refusals = {
        "a kernel that routes by itself: add moe_backend (triton on CUDA) to HGUARD_VLLM_ARGS": (
            experts.quant_method.is_monolithic
        ),
        f"the activation {experts.activation.value}, only silu": experts.activation.value != "silu",
        "biases of experts": layout.has_bias,
        "routing weights on the input of the experts": experts.apply_router_weight_on_input,
        "projections around the experts": (
            module.routed_input_transform is not None or module.routed_output_transform is not None
        ),
        "enable_eplb: turn it off in HGUARD_VLLM_ARGS": layout.moe_parallel_config.enable_eplb,
        "enable_expert_parallel (not tried: vLLM has it on no CPU): turn it off in HGUARD_VLLM_ARGS": (
            layout.moe_parallel_config.use_ep
        ),
        "data_parallel_size > 1 (experts see rows of all replicas): start one service a replica": layout.dp_size > 1,
        "an output that is not summed over ranks in the layer": (
            layout.skip_final_all_reduce or layout.is_sequence_parallel
        ),
        "float16 with a scaled output (vLLM then divides h): use HGUARD_DTYPE=bfloat16": (
            str(layout.in_dtype) == "torch.float16" and module.routed_scaling_factor != 1
        ),
    }
    for way, is_so in refusals.items():
        if is_so:
            raise IncompatibleVllmError(f"{name} of this model: the guard does not support {way}")
