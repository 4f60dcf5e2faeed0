import math

import pytest
import torch

from probes.signals import free_signals


def test_signals_equal_a_slow_loop():
    logits = torch.randn(3, 4, 11, dtype=torch.float64)
    tokens = torch.randint(0, 11, (3, 4))
    logprobs, entropies = free_signals(logits, tokens)
    for row in range(3):
        for column in range(4):
            weights = [math.exp(value) for value in logits[row, column].tolist()]
            shares = [weight / sum(weights) for weight in weights]
            assert float(logprobs[row, column]) == pytest.approx(math.log(shares[tokens[row, column]]), abs=1e-5)
            assert float(entropies[row, column]) == pytest.approx(-sum(p * math.log(p) for p in shares), abs=1e-5)


def test_tokens_that_the_model_rules_out_do_not_make_the_entropy_nan():
    logprobs, entropies = free_signals(torch.tensor([[0.0, 0.0, -torch.inf]]), torch.tensor([2]))
    assert float(entropies) == pytest.approx(math.log(2))
    assert float(logprobs) == -math.inf


def test_half_precision_is_computed_in_float32():
    logits = torch.randn(2, 500).to(torch.bfloat16)
    tokens = torch.tensor([1, 2])
    assert torch.equal(free_signals(logits, tokens)[1], free_signals(logits.float(), tokens)[1])
