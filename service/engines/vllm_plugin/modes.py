"""The modes of vLLM in which the taps would be wrong, refused by the names of vLLM's settings.

Checked in front of the start, so that the operator reads it, and again in every worker.
"""

import re
from dataclasses import dataclass
from typing import Any

from probes.vllm_start import IncompatibleVllmError, changed


@dataclass(frozen=True, slots=True)
class _Setting:
    """A field of vLLM's configuration, and with which values the taps are right."""

    field: str
    right: tuple[Any, ...]
    why: str
    """What else is on, and what would go wrong."""
    since: tuple[int, int] = (0, 25)
    """The first release that has the field."""


_SETTINGS = (
    _Setting(
        "parallel_config.pipeline_parallel_size",
        (1,),
        "pipeline_parallel_size > 1 (layers and sampler would be in different processes)",
    ),
    _Setting(
        "parallel_config.use_ubatching",
        (False,),
        "enable_dbo or ubatch_size > 1 (part batches share the row buffers)",
    ),
    _Setting(
        "parallel_config.decode_context_parallel_size",
        (1,),
        "decode context parallelism (rows are spread over ranks)",
    ),
    _Setting(
        "parallel_config.prefill_context_parallel_size",
        (1,),
        "prefill context parallelism (rows are spread over ranks)",
    ),
    _Setting(
        "parallel_config.data_parallel_hybrid_lb",
        (False,),
        "data_parallel_hybrid_lb (heads reach only the replicas behind this front end)",
    ),
    _Setting(
        "parallel_config.data_parallel_external_lb",
        (False,),
        "data_parallel_external_lb (heads reach only the replicas behind this front end)",
    ),
    _Setting("parallel_config.enable_elastic_ep", (False,), "enable_elastic_ep (a new replica has no heads)"),
    _Setting(
        "parallel_config.enable_fault_tolerance",
        (False,),
        "enable_fault_tolerance (a replica that is started again has no heads)",
        since=(0, 27),
    ),
    _Setting("lora_config", (None,), "LoRA (down projections are wrapped)"),
    _Setting("quant_config", (None,), "quantized weights (kernels may fuse the activation away)"),
    _Setting("kv_transfer_config", (None,), "kv_transfer_config or kv_offloading_size (connectors ignore cache salts)"),
    _Setting("diffusion_config", (None,), "diffusion_config (tokens are not chosen row by row)"),
    _Setting(
        "watermark_config",
        (None,),
        "watermark_config (the sampler changes the logits that are measured)",
        since=(0, 31),
    ),
    _Setting("model_config.logprobs_mode", ("raw_logprobs",), "logprobs_mode other than raw_logprobs"),
    _Setting(
        "model_config.logits_processors",
        (None, []),
        "logits_processors (they change the logits that are measured)",
    ),
    _Setting("cache_config.kv_sharing_fast_prefill", (False,), "kv_sharing_fast_prefill (layers skip prompt rows)"),
    _Setting("scheduler_config.policy", ("priority",), "scheduling_policy other than priority (the canary comes last)"),
    _Setting("scheduler_config.scheduler_cls", (None,), "scheduler_cls (schedulers other than vLLM's were not tried)"),
)
_SPECULATION = (
    _Setting(
        "method",
        ("ngram",),
        "speculative decoding other than ngram (the drafter's own passes run through tapped layers)",
    ),
    _Setting(
        "rejection_sample_method",
        ("standard",),
        "rejection_sample_method other than standard (synthetic keeps drafts that the model did not choose)",
    ),
    _Setting(
        "enable_adaptive_verification",
        (False,),
        "enable_adaptive_verification (which rows are read is known on the device only)",
        since=(0, 31),
    ),
)


def check_mode(vllm_config: Any, version: str) -> None:
    """Refuse what would run and score wrongly.

    Args:
        vllm_config: vLLM's configuration.
        version: Of vLLM.

    Raises:
        IncompatibleVllmError: Naming the setting to change, or the field that this vLLM does not have.
    """
    _check(vllm_config, _SETTINGS, version)
    if vllm_config.speculative_config is not None:
        _check(vllm_config.speculative_config, _SPECULATION, version)


def _check(config: Any, settings: tuple[_Setting, ...], version: str) -> None:
    for setting in settings:
        found = config
        try:
            for name in setting.field.split("."):
                found = getattr(found, name)
        except AttributeError as error:
            if _release(version) < setting.since:
                continue
            raise changed(version, f"its configuration has no {setting.field}") from error
        if found not in setting.right:
            raise IncompatibleVllmError(f"the guard does not support {setting.why}: turn it off in HGUARD_VLLM_ARGS")


def _release(version: str) -> tuple[int, int]:
    """Major and minor number; of a build without one, later than all."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (1 << 30, 0)
