"""Points of the report's curves, without drawing them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_curve

from offline.fitting.budgets import exact_interval
from offline.metrics import LEVEL, Floats, Ints, resample, risk_coverage, untied

GRID = np.linspace(0, 1, 101)
BAND_RESAMPLES = 300


class Curve(NamedTuple):
    """Points of one line."""

    x: Floats
    y: Floats


class Band(NamedTuple):
    """Between which values curves lie at each point of `GRID`."""

    low: Floats
    high: Floats


@dataclass(frozen=True)
class Bin:
    """One bin of the reliability diagram."""

    risk: float
    """Mean."""
    share: float
    """Of hallucinations."""
    low: float
    high: float
    rows: int


def roc(scores: Floats, labels: Ints) -> Curve:
    """False positive rate and recall at every threshold, from (0, 0) to (1, 1)."""
    fpr, recall, _ = roc_curve(labels, scores)
    return Curve(fpr, recall)


def coverage(scores: Floats, labels: Ints) -> Curve:
    """Share of answers kept, the least risky first, and the share of hallucinations among them."""
    shares = risk_coverage(scores, labels)
    return Curve(np.arange(1, len(shares) + 1) / len(shares), shares)


def band(curve: Callable[[Floats, Ints], Curve], scores: Floats, labels: Ints) -> Band:
    """Pointwise 95% bootstrap interval of a curve."""
    drawn = []
    for rows in resample(labels, seed=0, resamples=BAND_RESAMPLES):
        drawn.append(np.interp(GRID, *curve(scores[rows], labels[rows])))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Band(low, high)


def spread(lines: Sequence[Curve]) -> Band:
    """Lowest and highest of several curves at each point of `GRID`."""
    values = [np.interp(GRID, *line) for line in lines]
    return Band(np.min(values, axis=0), np.max(values, axis=0))


def reliability(risks: Floats, labels: Ints, *, bins: int = 10) -> list[Bin]:
    """The bins that the expected calibration error is taken over: as many rows in each, in the order of the risk."""
    expected = untied(risks, labels)
    found = []
    for part in np.array_split(np.argsort(risks, kind="stable"), bins):
        if len(part):
            share = float(expected[part].mean())
            low, high = exact_interval(round(share * len(part)), len(part))
            found.append(Bin(float(risks[part].mean()), share, low, high, len(part)))
    return found
