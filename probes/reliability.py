"""Calibration error of risks, for the offline evaluation and the live service alike. Label 1 = hallucinated."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def ece(risks: Floats, labels: Ints, *, bins: int = 10) -> float:
    """Expected calibration error over equal-count bins of the risk."""
    expected = untied(risks, labels)
    parts = np.array_split(np.argsort(risks, kind="stable"), bins)
    return float(sum(len(p) * abs(risks[p].mean() - expected[p].mean()) for p in parts if len(p)) / len(labels))


def untied(scores: Floats, labels: Ints) -> Floats:
    """Labels, each the mean of those with the same score: what is expected when ties are put in random order.

    Without it the order of the rows decides, and rows often stand sorted by class.
    """
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean: Floats = np.bincount(group, weights=labels) / counts
    return mean[group]
