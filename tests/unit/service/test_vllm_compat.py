"""What of vLLM is refused, and in which words; needs no vLLM."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from probes.vllm_start import IncompatibleVllmError
from service.engines.vllm_plugin.compat import (
    check_front_end,
    check_function,
    check_instance,
    check_layer,
    check_parts,
    check_read_rows,
    check_runner,
)


class Runner:
    """What a model runner of vLLM must look like."""

    def __init__(self) -> None:
        metadata = SimpleNamespace(all_greedy=True)
        names = SimpleNamespace(req_ids=[], req_id_to_index={}, generators={}, sampling_metadata=metadata)
        self.discard_request_mask = SimpleNamespace(np=1)
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


class Request:
    __dataclass_fields__ = dict.fromkeys(
        ("prompt_token_ids", "sampling_params", "num_computed_tokens", "in_progress_prompt_logprobs_cpu")
    )


class Logprobs(NamedTuple):
    logprob_token_ids: int
    logprobs: int
    selected_token_ranks: int
    more: int = 0

    @staticmethod
    def empty_cpu(num_positions, num_tokens_per_position): ...


def draft(**changes):
    """One drafted token: two rows are read."""
    rows = {"cu_num_sampled_tokens": torch.tensor([2]), "logits_indices": torch.tensor([0, 1]), "max_spec_len": 1}
    return SimpleNamespace(**{**rows, **changes})


def test_hazard_requests_columns_or_drafts_have_other_fields():
    check_parts(Request, Logprobs, draft(), "1.0")
    renamed = type("Request", (), {"__dataclass_fields__": {"prompt_token_ids": 1, "sampling_params": 1}})
    with pytest.raises(IncompatibleVllmError, match=r"vLLM 1\.0: Request has no field num_computed_tokens"):
        check_parts(renamed, Logprobs, draft(), "1.0")

    class Swapped(NamedTuple):
        logprobs: int
        logprob_token_ids: int
        selected_token_ranks: int

    with pytest.raises(IncompatibleVllmError, match=r"first fields of Swapped are \('logprobs', "):
        check_parts(Request, Swapped, draft(), "1.0")
    with pytest.raises(IncompatibleVllmError, match=r"empty_cpu takes \['rows'\]"):
        check_parts(Request, type("L", (Logprobs,), {"empty_cpu": staticmethod(lambda rows: rows)}), draft(), "1.0")
    lacks = draft()
    del lacks.max_spec_len
    with pytest.raises(IncompatibleVllmError, match="has no max_spec_len"):
        check_parts(Request, Logprobs, lacks, "1.0")
    with pytest.raises(IncompatibleVllmError, match=r"rows \(\[1\], 2, 1\), expected"):  # of drafts, not of all
        check_parts(Request, Logprobs, draft(cu_num_sampled_tokens=torch.tensor([1])), "1.0")


@pytest.mark.parametrize(
    "rows", [[3, 6], torch.tensor([[3], [6]]), torch.tensor([3.0, 6.0]), torch.arange(8), np.asarray([3, 6])]
)
def test_hazard_the_runner_returns_something_else_than_the_rows_that_are_read(rows):
    check_read_rows(torch.tensor([3, 6], dtype=torch.int32), 7, "1.0")
    with pytest.raises(IncompatibleVllmError, match="_prepare_inputs returns"):
        check_read_rows(rows, 7, "1.0")


def test_hazard_the_front_end_gets_outputs_in_another_form():
    class Outputs:
        def propagate_error(self, e): ...

    class Flat:
        def __init__(self):
            self.start_indices, self.end_indices, self.logprobs = [], [], []

    check_front_end(Outputs, Flat, "1.0")
    with pytest.raises(IncompatibleVllmError, match="propagate_error takes None"):
        check_front_end(type("Outputs", (), {}), Flat, "1.0")
    with pytest.raises(IncompatibleVllmError, match="object has no start_indices"):
        check_front_end(Outputs, object, "1.0")


def test_hazard_a_function_that_is_replaced_is_called_otherwise():
    check_function(lambda x, counts: None, ["x", "counts"], "1.0")
    with pytest.raises(IncompatibleVllmError, match=r"takes \['x', 'n'\], expected \['x', 'counts'\]"):
        check_function(lambda x, n: None, ["x", "counts"], "1.0")


def test_hazard_a_layer_that_does_not_return_the_whole_h():
    good = {"input_size_per_partition": 4, "input_is_parallel": True, "reduce_results": True, "tp_size": 2}
    check_layer("down", SimpleNamespace(**good))
    check_layer("down", SimpleNamespace(**{**good, "reduce_results": False, "tp_size": 1}))
    for change in ({"reduce_results": False}, {"input_is_parallel": False}):
        with pytest.raises(IncompatibleVllmError, match="down does not return the whole h"):
            check_layer("down", SimpleNamespace(**{**good, **change}))
    with pytest.raises(IncompatibleVllmError, match="down is a Linear without input_size_per_partition"):
        check_layer("down", nn.Linear(2, 2))
