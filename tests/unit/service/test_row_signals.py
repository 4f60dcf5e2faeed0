"""Norm and entropy of vLLM's rows are those of `probes.signals`, whichever way they are taken."""

import pytest
import torch
from torch._dynamo.utils import get_compilation_metrics

from probes.signals import free_signals
from service.engines.vllm_plugin.row_signals import RowSignals

TOKENS = torch.tensor([3, 0, 70_000, 5, 9])


@pytest.fixture(params=[False, True], ids=["step by step", "compiled"])
def signals(request):
    return RowSignals(is_compiled=request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_hazard_another_norm_or_entropy_than_the_other_engines(signals, rows, dtype):
    logits = (8 * torch.randn(rows, 70_001, generator=torch.Generator().manual_seed(rows))).to(dtype)
    logprobs, entropies = free_signals(logits, TOKENS[:rows])
    found = signals.measure(logits)
    assert found.shape == (rows, 2)
    assert found.dtype == torch.float32
    chosen = logits.gather(1, TOKENS[:rows, None])[:, 0].float() - found[:, 0]
    torch.testing.assert_close(chosen, logprobs, atol=2e-5, rtol=0)
    torch.testing.assert_close(found[:, 1], entropies, atol=2e-5, rtol=0)


def test_hazard_ruled_out_tokens_or_a_certain_one_make_nan(signals):
    logits = torch.full((2, 1000), -torch.inf)
    logits[0, [3, 7]] = 2.0
    logits[1, 5] = 90.0
    found = signals.measure(logits)
    torch.testing.assert_close(found[:, 1], torch.tensor([0.6931472, 0.0]))
    torch.testing.assert_close(found[:, 0], torch.tensor([2.6931472, 90.0]))


def test_a_row_without_a_number_says_so(signals):
    logits = torch.zeros(2, 10)
    logits[1, 4] = torch.nan
    assert signals.measure(logits).isnan().any(dim=1).tolist() == [False, True]


@pytest.mark.parametrize("padding", [0, 3])
def test_hazard_a_step_waits_for_a_compiler(padding):
    signals = RowSignals(is_compiled=True)
    signals.compile(500, torch.device("cpu"), torch.float32)
    compiled = len(get_compilation_metrics())
    with torch.inference_mode():
        for rows in (1, 2, 7):
            signals.measure(torch.zeros(rows, 500 + padding)[:, :500])  # vLLM cuts a padded vocabulary off
    assert len(get_compilation_metrics()) == compiled
