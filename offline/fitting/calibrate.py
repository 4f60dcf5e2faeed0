"""Pooled logits and labels -> a calibration map and a threshold. Sees the calibration split only."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from offline.metrics import brier
from probes.calibration import Calibration

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Fit = Callable[[Floats, Ints], Calibration]

FOLDS = 5
ISOTONIC_GAIN = 0.05
"""Share of the Brier score by which isotonic must be better: its plateaus give different answers the same risk."""


def fit_platt(logits: Floats, labels: Ints) -> Calibration:
    """Platt scaling: a logistic regression on one number, unregularised.

    Raises:
        ValueError: One class is missing, or a higher logit does not mean more hallucinations.
    """
    _check(logits, labels)
    scale = logits.std() or 1.0
    model = LogisticRegression(C=1e6).fit(logits[:, None] / scale, labels)
    slope = float(model.coef_[0, 0] / scale)
    if slope <= 0:
        raise ValueError(
            "on the calibration split a higher logit goes with fewer hallucinations: the probe does not work"
        )
    return Calibration("platt", slope=slope, offset=float(model.intercept_[0]))


def fit_isotonic(logits: Floats, labels: Ints) -> Calibration:
    """Isotonic regression, kept as its corner points; risks stay off 0 and 1 by the rule of succession."""
    _check(logits, labels)
    model = IsotonicRegression(out_of_bounds="clip").fit(logits, labels)
    floor = 1.0 / (len(labels) + 2)
    x, first = np.unique(model.X_thresholds_, return_index=True)
    y = np.clip(model.y_thresholds_[first], floor, 1 - floor)
    return Calibration("isotonic", points=tuple(zip(x.tolist(), y.tolist(), strict=True)))


def choose_calibration(logits: Floats, labels: Ints, *, seed: int) -> tuple[Calibration, dict[str, float]]:
    """Platt, unless isotonic has a clearly lower cross-validated Brier score; fitted on all rows.

    Returns:
        The map, and the cross-validated Brier score of each kind.

    Raises:
        ValueError: Too few rows of a class, or a higher logit does not mean more hallucinations.
    """
    maps = {"platt": fit_platt(logits, labels), "isotonic": fit_isotonic(logits, labels)}
    smaller = int(min(labels.sum(), len(labels) - labels.sum()))
    if smaller < 2:
        raise ValueError("the calibration rows hold one row of a class only: ask more questions, or raise --unfiltered")
    splitter = StratifiedKFold(min(FOLDS, smaller), shuffle=True, random_state=seed)
    folds = list(splitter.split(logits[:, None], labels))
    scores = {
        kind: float(np.mean([brier(_risks(fit, logits, labels, a, b), labels[b]) for a, b in folds]))
        for kind, fit in (("platt", fit_platt), ("isotonic", fit_isotonic))
    }
    kind = "isotonic" if scores["isotonic"] < (1 - ISOTONIC_GAIN) * scores["platt"] else "platt"
    return maps[kind], scores


def choose_threshold(risks: Floats, labels: Ints) -> float:
    """The risk that best separates the classes when both weigh the same (largest balanced accuracy)."""
    cuts = np.unique(risks)
    cuts = (cuts[:-1] + cuts[1:]) / 2
    if not len(cuts):
        raise ValueError("all calibration risks are equal: the probe says nothing")
    balanced = [(risks[labels == 1] >= cut).mean() + (risks[labels == 0] < cut).mean() for cut in cuts]
    return float(np.clip(cuts[int(np.argmax(balanced))], 1e-6, 1 - 1e-6))


def _risks(fit: Fit, logits: Floats, labels: Ints, inside: Ints, outside: Ints) -> Floats:
    """Risks of held-out rows; where the other rows give no map, their share of hallucinations."""
    try:
        calibration = fit(logits[inside], labels[inside])
    except ValueError:
        return np.full(len(outside), labels[inside].mean())
    return calibration.risks(logits[outside])


def _check(logits: Floats, labels: Ints) -> None:
    if len(set(labels.tolist())) < 2:
        raise ValueError("the calibration rows hold one class only: ask more questions, or lower --agreement")
    if not np.isfinite(logits).all():
        raise ValueError("calibration logits are not finite")
