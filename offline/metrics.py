"""What a score is judged by, each with a bootstrap interval. Higher scores mean hallucinated; label 1 = hallucinated.

Nothing here knows where a score came from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from probes.reliability import ece as ece
from probes.reliability import untied as untied

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Metric = Callable[[Floats, Ints], float]

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its percentile bootstrap interval (95%)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def as_list(self) -> list[float]:
        """[value, low, high], four digits, for JSON."""
        return [round(number, 4) for number in (self.value, self.low, self.high)]


def auroc(scores: Floats, labels: Ints) -> float:
    """Probability that a hallucinated response scores higher than a faithful one; ties count half.

    Raises:
        ValueError: One class is missing.
    """
    positive = labels == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        raise ValueError("one of the two classes is empty: nothing can be judged on these rows")
    ranks = float(rankdata(scores)[positive].sum())
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def recall_at_fpr(scores: Floats, labels: Ints, *, fpr: float = 0.10) -> float:
    """Share of hallucinated responses above the lowest score that at most `fpr` of the faithful ones exceed."""
    faithful = np.sort(scores[labels == 0])
    allowed = int(fpr * len(faithful) + 1e-9)  # a product such as 0.29 * 100 comes out just below the whole number
    return float((scores[labels == 1] > faithful[len(faithful) - 1 - allowed]).mean())


def aurc(scores: Floats, labels: Ints) -> float:
    """Area under the risk-coverage curve: mean share of hallucinations among the k least risky answers, over all k."""
    return float(risk_coverage(scores, labels).mean())


def risk_coverage(scores: Floats, labels: Ints) -> Floats:
    """Share of hallucinations among the k least risky answers, for every k from 1 to R [R]."""
    ordered = untied(scores, labels)[np.argsort(scores, kind="stable")]
    return np.asarray(np.cumsum(ordered) / np.arange(1, len(ordered) + 1))


def brier(risks: Floats, labels: Ints) -> float:
    """Mean squared error of the risk."""
    return float(((risks - labels) ** 2).mean())


def accuracy_at(threshold: float) -> Metric:
    """Accuracy of flagging from this risk on."""
    return lambda risks, labels: float(((risks >= threshold) == (labels == 1)).mean())


def bootstrap(metric: Metric, scores: Floats, labels: Ints, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """A metric with its interval; resamples rows, within each class so that no resample lacks one."""
    draws = [metric(scores[rows], labels[rows]) for rows in resample(labels, seed=seed, resamples=resamples)]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(metric(scores, labels), float(low), float(high))


def bootstrap_difference(metric: Metric, a: Floats, b: Floats, labels: Ints, *, seed: int = 0) -> Interval:
    """metric(a) - metric(b) on the same rows, paired resamples."""
    draws = [
        metric(a[rows], labels[rows]) - metric(b[rows], labels[rows])
        for rows in resample(labels, seed=seed, resamples=RESAMPLES)
    ]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(metric(a, labels) - metric(b, labels), float(low), float(high))


def length_correlation(scores: Floats, lengths: Floats, labels: Ints) -> dict[str, float]:
    """Spearman correlation of score and response length within each class; a score that encodes length shows here.

    0 where all scores or all lengths of a class are the same.
    """
    correlations = {}
    for name, label in (("faithful", 0), ("hallucinated", 1)):
        rows = labels == label
        x, y = (rankdata(values[rows]) for values in (scores, lengths))
        is_constant = not (np.ptp(x) and np.ptp(y))
        correlations[name] = 0.0 if is_constant else round(float(np.corrcoef(x, y)[0, 1]), 4)
    return correlations


def summarise(scores: Floats, labels: Ints) -> dict[str, list[float]]:
    """The ranking metrics of one score."""
    metrics: Mapping[str, Metric] = {"auroc": auroc, "recall_at_10_fpr": recall_at_fpr, "aurc": aurc}
    return {name: bootstrap(metric, scores, labels).as_list() for name, metric in metrics.items()}


def resample(labels: Ints, *, seed: int, resamples: int) -> list[NDArray[np.int64]]:
    """Row numbers of each resample: rows drawn with replacement within each class.

    Raises:
        ValueError: One class is missing.
    """
    random = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    if not all(len(rows) for rows in classes):
        raise ValueError("one of the two classes is empty: nothing can be judged on these rows")
    return [np.concatenate([random.choice(rows, len(rows)) for rows in classes]) for _ in range(resamples)]
