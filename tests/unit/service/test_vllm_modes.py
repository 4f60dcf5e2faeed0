"""Which modes of vLLM are refused, and in which words; needs no vLLM."""

from types import SimpleNamespace

import pytest

from probes.vllm_start import IncompatibleVllmError
from service.engines.vllm_plugin.modes import check_mode

NGRAM = {"method": "ngram", "rejection_sample_method": "standard", "enable_adaptive_verification": False}


def config(**changes):
    """What `check_mode` reads of a VllmConfig; `part__name=value` changes it."""
    parts = {
        "parallel_config": SimpleNamespace(
            pipeline_parallel_size=1,
            use_ubatching=False,
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            data_parallel_hybrid_lb=False,
            data_parallel_external_lb=False,
            enable_elastic_ep=False,
            enable_fault_tolerance=False,
        ),
        "model_config": SimpleNamespace(logprobs_mode="raw_logprobs", logits_processors=None),
        "cache_config": SimpleNamespace(kv_sharing_fast_prefill=False),
        "scheduler_config": SimpleNamespace(policy="priority", scheduler_cls=None),
        "speculative_config": None,
        "lora_config": None,
        "quant_config": None,
        "kv_transfer_config": None,
        "diffusion_config": None,
        "watermark_config": None,
    }
    for key, value in changes.items():
        part, _, name = key.partition("__")
        if name:
            setattr(parts[part], name, value)
        else:
            parts[part] = value
    return SimpleNamespace(**parts)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"parallel_config__pipeline_parallel_size": 2}, "pipeline_parallel_size"),
        ({"parallel_config__use_ubatching": True}, "enable_dbo"),
        ({"parallel_config__decode_context_parallel_size": 2}, "decode context parallelism"),
        ({"parallel_config__prefill_context_parallel_size": 2}, "prefill context parallelism"),
        ({"parallel_config__data_parallel_hybrid_lb": True}, "data_parallel_hybrid_lb"),
        ({"parallel_config__data_parallel_external_lb": True}, "data_parallel_external_lb"),
        ({"parallel_config__enable_elastic_ep": True}, "enable_elastic_ep"),
        ({"parallel_config__enable_fault_tolerance": True}, "enable_fault_tolerance"),
        ({"lora_config": object()}, "LoRA"),
        ({"quant_config": object()}, "quantized"),
        ({"kv_transfer_config": object()}, "kv_transfer_config"),
        ({"diffusion_config": object()}, "diffusion_config"),
        ({"watermark_config": object()}, "watermark_config"),
        ({"model_config__logprobs_mode": "processed_logprobs"}, "raw_logprobs"),
        ({"model_config__logits_processors": ["module.Processor"]}, "logits_processors"),
        ({"cache_config__kv_sharing_fast_prefill": True}, "kv_sharing_fast_prefill"),
        ({"scheduler_config__policy": "fcfs"}, "scheduling_policy"),
        ({"scheduler_config__scheduler_cls": "module.Scheduler"}, "scheduler_cls"),
        ({"speculative_config": SimpleNamespace(**{**NGRAM, "method": "eagle"})}, "ngram"),
        (
            {"speculative_config": SimpleNamespace(**{**NGRAM, "rejection_sample_method": "synthetic"})},
            "rejection_sample_method",
        ),
        (
            {"speculative_config": SimpleNamespace(**{**NGRAM, "enable_adaptive_verification": True})},
            "enable_adaptive_verification",
        ),
    ],
)
def test_hazard_a_mode_that_scores_wrongly_is_refused(change, word):
    with pytest.raises(IncompatibleVllmError, match=rf"does not support .*{word}.*: turn it off in HGUARD_VLLM_ARGS"):
        check_mode(config(**change), "0.32.0")


def test_modes_that_score_rightly_are_not_refused():
    check_mode(config(), "0.32.0")
    check_mode(config(speculative_config=SimpleNamespace(**NGRAM), model_config__logits_processors=[]), "0.32.0")


def test_hazard_a_field_that_was_renamed_passes_unseen():
    renamed = config()
    del renamed.parallel_config.use_ubatching
    for version in ("0.25.1", "0.32.0", "0.40.1rc1", "dev"):
        with pytest.raises(IncompatibleVllmError, match=r"configuration has no parallel_config\.use_ubatching"):
            check_mode(renamed, version)
    younger = config()
    del younger.watermark_config, younger.parallel_config.enable_fault_tolerance
    check_mode(younger, "0.25.1")  # it has neither
    for version in ("0.31.0", "0.32.0+cpu", "dev"):
        with pytest.raises(IncompatibleVllmError, match=r"configuration has no parallel_config\.enable_fault_tol"):
            check_mode(younger, version)
