"""Thresholds that keep to a budget of false positives, from the risks of faithful calibration rows.

Split conformal (Vovk et al. 2005; Lei et al. 2018): of n faithful risks in rising order s_1 ... s_n, flagging what lies
above s_k with k = ceil((n + 1)(1 - fpr)) flags a new faithful response with a probability of at most fpr, whatever the
distribution. The interval is that of a quantile by order statistics (Conover 1999): how many of n risks lie below the
true threshold is binomial.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import beta, binom

from offline.metrics import LEVEL, Floats, Ints
from probes.risk import Budget

BUDGETS = (0.01, 0.05, 0.1, 0.2)


def choose_budgets(risks: Floats, labels: Ints, budgets: Sequence[float] = BUDGETS) -> tuple[Budget, ...]:
    """The thresholds.

    Args:
        risks: Of calibration rows at their natural rate [R].
        labels: [R].
        budgets: Shares of faithful responses that may be flagged.

    Returns:
        One a budget; budgets that so few rows cannot vouch for (below 1 / (n + 1)) are left out.
    """
    faithful = np.sort(risks[labels == 0])
    n = len(faithful)
    found = []
    for fpr in sorted(budgets):
        rank = math.ceil((n + 1) * (1 - fpr) - 1e-9)  # 20 * 0.95 comes out just above 19
        if rank > n:
            continue
        low, high = quantile_ranks(n, 1 - fpr)
        found.append(
            Budget(
                fpr,
                threshold=_cut_above(faithful[rank - 1], risks),
                low=0.0 if low == 0 else _cut_above(faithful[low - 1], risks),
                high=1.0 if high > n else _cut_above(faithful[high - 1], risks),
            )
        )
    return tuple(found)


def quantile_ranks(n: int, share: float) -> tuple[int, int]:
    """Ranks 1 ... n of sorted values that enclose the quantile with 95% confidence; 0 and n + 1 where none does."""
    tail = (1 - LEVEL) / 2
    counts = np.arange(n + 2)
    below = binom.cdf(counts - 1, n, share)  # P(fewer than count values lie below the quantile)
    return int(counts[below <= tail].max()), int(counts[below >= 1 - tail].min())


def exact_interval(hits: int, n: int) -> tuple[float, float]:
    """95% interval of a share (Clopper and Pearson 1934)."""
    tail = (1 - LEVEL) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    return low, float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0


def _cut_above(risk: float, risks: Floats) -> float:
    """Midway to the next higher calibration risk: rounding on another machine flips nothing."""
    higher = risks[risks > risk]
    return min(float((risk + (higher.min() if len(higher) else 1.0)) / 2), 1 - 1e-9)
