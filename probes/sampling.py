"""Choose the next token of every row: temperature, top-k, top-p, and a random stream that belongs to the row.

A row's stream depends on its seed and its step only, so a request gives the same tokens alone or in any batch (up to
the rounding of its logits). Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one row's tokens are chosen; the names are OpenAI's and vLLM's."""

    temperature: float = 0.0
    """0 = greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 = the whole vocabulary."""


class RowRandom:
    """The uniform numbers of one row, step after step."""

    def __init__(self, *key: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))

    def next(self) -> float:
        """The next number, in [0, 1)."""
        return float(self._generator.random())


def choose_tokens(logits: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]) -> Tensor:
    """One token a row.

    Sampling follows the order of transformers and vLLM: temperature, then top-k, then top-p (the smallest set of tokens
    that reaches top_p, the first one that crosses it included), then a draw by inverse distribution function over the
    tokens from the most likely down.

    Args:
        logits: [B, V].
        params: B of them.
        uniforms: B numbers in [0, 1); ignored where temperature is 0.

    Returns:
        Token ids [B].
    """
    tokens = logits.argmax(dim=-1)
    warm = [row for row, p in enumerate(params) if p.temperature > 0]
    if not warm:
        return tokens
    device, vocabulary = logits.device, logits.shape[-1]
    index = torch.tensor(warm, device=device)
    limits = [params[row].top_k or vocabulary for row in warm]
    k = min(max(limits), vocabulary)
    temperature = torch.tensor([params[row].temperature for row in warm], device=device)[:, None]
    values, ids = (logits[index].float() / temperature).topk(k, dim=-1)
    rank = torch.arange(k, device=device)
    values = values.masked_fill(rank >= torch.tensor(limits, device=device)[:, None], -torch.inf)
    p = values.softmax(dim=-1)
    top_p = torch.tensor([params[row].top_p for row in warm], device=device)[:, None]
    p = p.masked_fill(p.cumsum(dim=-1) - p >= top_p, 0.0)
    p[:, 0] = p[:, 0].clamp(min=torch.finfo(p.dtype).tiny)  # top_p = 0 still leaves the likeliest token
    cdf = p.cumsum(dim=-1)
    u = torch.tensor([uniforms[row] for row in warm], device=device, dtype=cdf.dtype)[:, None]
    # A token of probability 0 has the cdf of its predecessor, so it is passed over; the clamp is for a uniform number
    # that rounds to 1 in float32.
    chosen = (cdf <= u * cdf[:, -1:]).sum(dim=-1).minimum((p > 0).sum(dim=-1) - 1)
    tokens[index] = ids.gather(-1, chosen[:, None])[:, 0]
    return tokens
