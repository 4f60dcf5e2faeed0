"""Choose the next token of every row: temperature, top-k, top-p, and a random stream that belongs to the row.

A row's stream depends on its seed and its step only, so a request gives the same tokens alone or in any batch (up to
the rounding of its logits). Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_FIRST_TOKENS = 1024


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
    that reaches top_p, the first one that crosses it included), then a draw by inverse distribution function: over the
    kept tokens from the most likely down, or over the whole vocabulary in its own order where none was cut.

    Args:
        logits: [B, V].
        params: B of them.
        uniforms: B numbers in [0, 1); ignored where temperature is 0.

    Returns:
        Token ids [B].
    """
    tokens = logits.argmax(dim=-1)
    warm = [row for row, p in enumerate(params) if p.temperature > 0]
    whole = [row for row in warm if _is_whole(params[row])]
    cut = [row for row in warm if not _is_whole(params[row])]
    for rows, choose in ((whole, _choose_whole), (cut, _choose_cut)):
        if rows:
            index = torch.tensor(rows, device=logits.device)
            temperature = _column(logits, [params[row].temperature for row in rows])
            u = _column(logits, [uniforms[row] for row in rows])
            tokens[index] = choose(logits[index].float() / temperature, [params[row] for row in rows], u)
    return tokens


def _is_whole(params: SamplingParams) -> bool:
    return params.top_k == 0 and params.top_p >= 1


def _choose_whole(values: Tensor, _params: Sequence[SamplingParams], u: Tensor) -> Tensor:
    return _draw(values.softmax(dim=-1), u)


def _choose_cut(values: Tensor, params: Sequence[SamplingParams], u: Tensor) -> Tensor:
    vocabulary = values.shape[-1]
    limits = _column(values, [p.top_k or vocabulary for p in params])
    top_p = _column(values, [p.top_p if p.top_p < 1 else torch.inf for p in params])
    # Sorting the whole vocabulary is slow, and its first tokens nearly always reach top_p.
    k = min(max(p.top_k or _FIRST_TOKENS for p in params), vocabulary)
    p, ids = _most_likely(values, limits, k)
    if k < vocabulary and bool(((limits == vocabulary) & (p.sum(dim=-1, keepdim=True) <= top_p)).any()):
        p, ids = _most_likely(values, limits, vocabulary)
    p = p.masked_fill(p.cumsum(dim=-1) - p >= top_p, 0.0)
    p[:, 0] = p[:, 0].clamp(min=torch.finfo(p.dtype).tiny)  # top_p = 0 still leaves the likeliest token
    return ids.gather(-1, _draw(p, u)[:, None])[:, 0]


def _most_likely(values: Tensor, limits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Probabilities and ids of the k likeliest tokens [B, k]; 0 beyond a row's limit, shares of what is within it."""
    likely, ids = values.topk(k, dim=-1)
    likely = likely.masked_fill(torch.arange(k, device=values.device) >= limits, -torch.inf)
    is_limited = limits < values.shape[-1]
    total = likely.logsumexp(dim=-1, keepdim=True).where(is_limited, values.logsumexp(dim=-1, keepdim=True))
    return (likely - total).exp(), ids


def _draw(p: Tensor, u: Tensor) -> Tensor:
    """Index of the token at u of each row's distribution function; p [B, k] need not sum to 1."""
    cdf = p.cumsum(dim=-1)
    # A token of probability 0 has the cdf of its predecessor, so it is passed over; the minimum is for a uniform number
    # that rounds to 1 in float32.
    at = (cdf <= u * cdf[:, -1:]).sum(dim=-1)
    last = p.shape[-1] - 1 - (p > 0).flip(-1).int().argmax(dim=-1)
    return at.minimum(last)


def _column(like: Tensor, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=torch.float32)[:, None]
