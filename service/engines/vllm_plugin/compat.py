"""What of vLLM is used beyond its public interface.

Checked when front end and workers start: a vLLM that has changed is refused by name, it never scores quietly wrong.
Imports no vLLM: the checks read the classes that they are given.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from probes.vllm_start import IncompatibleVllmError, changed, check_signatures


def check_runner(runner: type, version: str) -> None:
    """Every overridden method takes what we pass on.

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
    check_signatures(runner, wanted, version)


def check_instance(runner: Any, version: str) -> None:
    """The attributes of a running model runner.

    Raises:
        IncompatibleVllmError: Naming what is missing.
    """
    paths = (
        "sampler.compute_logprobs",
        "sampler.gather_logprobs",
        "input_batch.sampling_metadata.all_greedy",
        "input_batch.req_ids",
        "input_batch.req_id_to_index",
        "input_batch.generators",
        "discard_request_mask.np",
        "requests",
        "num_prompt_logprobs",
        "query_start_loc.np",
        "model.compute_logits",
    )
    _check_names("the model runner", runner, paths, version)


def check_parts(request: type, logprobs: type, draft: Any, version: str) -> None:
    """What the model runner keeps of requests, and what passes between it and the scheduler.

    Args:
        request: The class of its requests, a dataclass.
        logprobs: The class of log-probability columns, a named tuple.
        draft: The description of a step with a draft of one token.
        version: Of vLLM, for the message.

    Raises:
        IncompatibleVllmError: Naming what has changed.
    """
    fields = getattr(request, "__dataclass_fields__", {})
    for name in ("prompt_token_ids", "sampling_params", "num_computed_tokens", "in_progress_prompt_logprobs_cpu"):
        if name not in fields:
            raise changed(version, f"{request.__name__} has no field {name}")
    found = getattr(logprobs, "_fields", ())[:3]
    if found != ("logprob_token_ids", "logprobs", "selected_token_ranks"):
        raise changed(version, f"the first fields of {logprobs.__name__} are {found}")
    check_signatures(logprobs, {"empty_cpu": ["num_positions", "num_tokens_per_position"]}, version)
    _check_names(type(draft).__name__, draft, ("cu_num_sampled_tokens", "logits_indices", "max_spec_len"), version)
    seen = draft.cu_num_sampled_tokens.tolist(), len(draft.logits_indices), draft.max_spec_len
    if seen != ([2], 2, 1):
        raise changed(version, f"{type(draft).__name__} of one drafted token has rows {seen}, expected ([2], 2, 1)")


def check_read_rows(read_rows: Any, n_rows: int, version: str) -> None:
    """`_prepare_inputs` returns, first, the rows from which tokens are chosen.

    Args:
        read_rows: What it returned.
        n_rows: Rows that the step feeds.
        version: Of vLLM, for the message.

    Raises:
        IncompatibleVllmError: It returned something else.
    """
    if not isinstance(read_rows, torch.Tensor):
        raise changed(version, f"_prepare_inputs returns a {type(read_rows).__name__} first, expected a tensor of rows")
    if read_rows.dim() != 1 or read_rows.dtype not in (torch.int32, torch.int64) or len(read_rows) > n_rows:
        raise changed(
            version,
            f"_prepare_inputs returns {tuple(read_rows.shape)} {read_rows.dtype} first, expected at most {n_rows} rows",
        )


def check_front_end(outputs: type, flat_logprobs: type, version: str) -> None:
    """What the process of the service uses.

    Args:
        outputs: The class that hands outputs to those who wait for them.
        flat_logprobs: The class in which log-probability columns arrive.
        version: Of vLLM, for the message.

    Raises:
        IncompatibleVllmError: Naming what has changed.
    """
    check_signatures(outputs, {"propagate_error": ["self", "e"]}, version)
    names = ("start_indices", "end_indices", "logprobs")
    _check_names(flat_logprobs.__name__, flat_logprobs(), names, version)


def check_function(function: Callable[..., Any], parameters: Sequence[str], version: str) -> None:
    """A function that we put ours in the place of is called as ours is.

    Raises:
        IncompatibleVllmError: It takes something else.
    """
    found = list(inspect.signature(function).parameters)
    if found != list(parameters):
        raise changed(version, f"{function.__module__}.{function.__name__} takes {found}, expected {parameters}")


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
        raise changed(
            version, f"{name} is a {type(module).__name__} whose routed_experts.forward_modular takes {found}"
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


def _check_names(what: str, owner: Any, paths: Sequence[str], version: str) -> None:
    for path in paths:
        found = owner
        for name in path.split("."):
            if not hasattr(found, name):
                raise changed(version, f"{what} has no {path}")
            found = getattr(found, name)
