"""The free signals of a next-token distribution: what any engine can read without a probe.

logprob = log p(token)        entropy = -sum_v p(v) log p(v)        p = softmax(logits), temperature 1
"""

import torch
from torch import Tensor


def free_signals(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each token and entropy of the distribution that predicted it.

    Args:
        logits: Of the predicting rows [..., V]; any floating-point type.
        tokens: Token ids [...].

    Returns:
        Log-probabilities and entropies [...], float32, nats.
    """
    log_p = logits.float().log_softmax(dim=-1)
    logprobs = log_p.gather(-1, tokens[..., None])[..., 0]
    # A token that the model rules out has p = 0 and log p = -inf, whose product would be nan.
    entropies = -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(dim=-1)
    return logprobs, entropies
