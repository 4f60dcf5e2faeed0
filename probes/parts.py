"""Parts: the numbers that a risk is made of, measured over a set of answer tokens. One token alone is a set of one.

cett              mean of the tokens' probe logits
residual          mean of the tokens' logits of the residual head, where the probe has one
mean_, min_logprob    of the tokens' log-probabilities
mean_, max_entropy    of the entropies of the distributions that predicted them
length            number of tokens
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

Part = Literal["cett", "residual", "mean_logprob", "min_logprob", "mean_entropy", "max_entropy", "length"]

SIGNS: Mapping[Part, int] = {
    "cett": 1,
    "residual": 1,
    "mean_logprob": -1,
    "min_logprob": -1,
    "mean_entropy": 1,
    "max_entropy": 1,
    "length": 0,
}
"""Which way a part may move the risk; 0 is either. Where this order is kept, a less certain token never looks safer."""


def measure_parts(
    logits: Sequence[float],
    logprobs: Sequence[float],
    entropies: Sequence[float],
    residuals: Sequence[float] | None = None,
) -> dict[Part, float]:
    """The parts of a set of tokens.

    Args:
        logits: Of the probe, one a token; nan where a token was not scored.
        logprobs: Of the tokens, nats.
        entropies: Of the distributions that predicted them, nats.
        residuals: Logits of the residual head, one a token; None: the probe has none.

    Returns:
        Every part; nan where a number that goes into it is not finite or not there.

    Raises:
        ValueError: No token, or not as many numbers of each kind.
    """
    lengths = {len(logits), len(logprobs), len(entropies), len(logits if residuals is None else residuals)}
    if len(lengths) > 1 or not len(logits):
        raise ValueError(
            f"parts of {len(logits)} logits, {len(logprobs)} log-probabilities, {len(entropies)} entropies"
            + ("" if residuals is None else f", {len(residuals)} logits of the residual head")
        )
    # min() and max() depend on where a nan stands, so finiteness is asked first.
    has_logprobs, has_entropies = _are_finite(logprobs), _are_finite(entropies)
    return {
        "cett": _mean(logits) if _are_finite(logits) else math.nan,
        "residual": _mean(residuals) if residuals is not None and _are_finite(residuals) else math.nan,
        "mean_logprob": _mean(logprobs) if has_logprobs else math.nan,
        "min_logprob": float(min(logprobs)) if has_logprobs else math.nan,
        "mean_entropy": _mean(entropies) if has_entropies else math.nan,
        "max_entropy": float(max(entropies)) if has_entropies else math.nan,
        "length": float(len(logits)),
    }


def _are_finite(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
