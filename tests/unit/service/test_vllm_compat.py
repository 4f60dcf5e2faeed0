"""What of vLLM is refused, and in which words; needs no vLLM."""

from types import SimpleNamespace

import pytest
from torch import nn

from service.engines.vllm_plugin.compat import (
    IncompatibleVllmError,
    check_instance,
    check_layer,
    check_mode,
    check_runner,
)


class Runner:
    """What a model runner of vLLM must look like."""

    def __init__(self) -> None:
        metadata = SimpleNamespace(all_greedy=True)
        names = SimpleNamespace(req_ids=[], req_id_to_index={}, sampling_metadata=metadata)
        self.sampler = SimpleNamespace(compute_logprobs=1, gather_logprobs=1)
        self.model = SimpleNamespace(compute_logits=1)
        self.input_batch, self.query_start_loc = names, SimpleNamespace(np=1)
        self.requests, self.num_prompt_logprobs = {}, {}

    def _prepare_inputs(self, scheduler_output, num_scheduled_tokens): ...
    def _sample(self, logits, spec_decode_metadata): ...
    def _get_prompt_logprobs_dict(self, hidden_states, num_scheduled_tokens): ...
    def _sync_device(self): ...


def test_hazard_a_vllm_that_has_changed():
    check_runner(Runner, "1.0")
    changed = type("Runner", (Runner,), {"_prepare_inputs": lambda self, scheduler_output, counts, more: None})
    with pytest.raises(IncompatibleVllmError, match=r"vLLM 1\.0: .*_prepare_inputs takes .*'more'.*expected"):
        check_runner(changed, "1.0")
    with pytest.raises(IncompatibleVllmError, match="_sample takes None"):
        check_runner(type("Runner", (Runner,), {"_sample": None}), "1.0")
    runner = Runner()
    check_instance(runner, "1.0")
    del runner.sampler.gather_logprobs
    with pytest.raises(IncompatibleVllmError, match=r"no sampler\.gather_logprobs"):
        check_instance(runner, "1.0")


def config(**changes):
    """What `check_mode` reads of a VllmConfig; `part__name=value` changes it."""
    parts = {
        "parallel_config": SimpleNamespace(pipeline_parallel_size=1, use_ubatching=False),
        "model_config": SimpleNamespace(logprobs_mode="raw_logprobs"),
        "cache_config": SimpleNamespace(kv_sharing_fast_prefill=False),
        "speculative_config": None,
        "lora_config": None,
        "quant_config": None,
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
        ({"parallel_config__decode_context_parallel_size": 2}, "context parallelism"),
        ({"parallel_config__prefill_context_parallel_size": 2}, "context parallelism"),
        ({"lora_config": object()}, "LoRA"),
        ({"quant_config": object()}, "quantized"),
        ({"model_config__logprobs_mode": "processed_logprobs"}, "raw_logprobs"),
        ({"speculative_config": SimpleNamespace(method="eagle")}, "ngram"),
        ({"cache_config__kv_sharing_fast_prefill": True}, "kv_sharing_fast_prefill"),
    ],
)
def test_hazard_a_mode_that_scores_wrongly_is_refused(change, word):
    with pytest.raises(IncompatibleVllmError, match=word):
        check_mode(config(**change))


def test_modes_that_score_rightly_are_not_refused():
    check_mode(config())
    check_mode(config(speculative_config=SimpleNamespace(method="ngram")))


def test_hazard_a_layer_that_does_not_return_the_whole_h():
    good = {"input_size_per_partition": 4, "input_is_parallel": True, "reduce_results": True, "tp_size": 2}
    check_layer("down", SimpleNamespace(**good))
    check_layer("down", SimpleNamespace(**{**good, "reduce_results": False, "tp_size": 1}))
    for change in ({"reduce_results": False}, {"input_is_parallel": False}):
        with pytest.raises(IncompatibleVllmError, match="down does not return the whole h"):
            check_layer("down", SimpleNamespace(**{**good, **change}))
    with pytest.raises(IncompatibleVllmError, match="down is a Linear without input_size_per_partition"):
        check_layer("down", nn.Linear(2, 2))
