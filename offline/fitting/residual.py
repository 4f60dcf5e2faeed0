"""The residual head: an L2 logistic regression on the residual stream after one layer, chosen by cross-validation.

Sees training rows only, with the folds of the probe. It is a baseline for every probe, and where the risk's combination
keeps it, a part of what is served.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from offline.features.residuals import Residuals
from offline.features.table import Floats, Table
from offline.fitting.choose import FOLDS, fold_of
from offline.metrics import auroc
from probes.probe import ResidualHead

C_VALUES = (1e-3, 3e-3, 1e-2, 3e-2)
"""Of standardised features; smaller and larger ones were worse on all models tried."""


@dataclass(frozen=True)
class FittedResidual:
    """The chosen residual head, and its logits."""

    head: ResidualHead
    logits: Floats
    """Of every labelled row [R]."""
    unseen: Floats
    """The same, but of training rows from the fold that did not see them [R]."""
    grid: list[dict[str, Any]]
    """Cross-validated AUROC of every layer and C, for the card."""


def fit_residual(table: Table, residuals: Residuals, group: str) -> FittedResidual:
    """Choose layer and C, and fit on all training rows.

    Args:
        table: All rows, R.
        residuals: Their streams.
        group: The token group that the served probe pools over.
    """
    train = np.flatnonzero(table.in_split("train"))
    labels = table.labels[train]
    fold = np.array([fold_of(table.rows[row].answers_key) for row in train])
    grid, best = [], (-1.0, 0, 0.0, np.zeros(0))
    for at, layer in enumerate(residuals.layers):
        x = _rows(residuals, group, table, at)[train]
        for c in C_VALUES:
            out_of_fold = np.zeros(len(train))
            for k in range(FOLDS):
                fitted = _fit(x[fold != k], labels[fold != k], c)
                out_of_fold[fold == k] = fitted.decision_function(x[fold == k])
            reached = float(np.mean([auroc(out_of_fold[fold == k], labels[fold == k]) for k in range(FOLDS)]))
            grid.append({"layer": layer, "C": c, "auroc": round(reached, 4)})
            if reached > best[0]:
                best = reached, at, c, out_of_fold
    _, at, c, out_of_fold = best
    x = _rows(residuals, group, table, at)
    head = _as_head(_fit(x[train], labels, c), residuals.layers[at])
    logits = x.astype(np.float64) @ head.weights.astype(np.float64) + head.intercept
    unseen = logits.copy()
    unseen[train] = out_of_fold
    return FittedResidual(head, logits, unseen, grid)


def _rows(residuals: Residuals, group: str, table: Table, layer: int) -> np.ndarray:
    return np.asarray(residuals.groups[group][:, layer][table.place])


def _fit(x: np.ndarray, labels: np.ndarray, c: float) -> Pipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # small C: the last digits of the loss do not matter
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300)).fit(x, labels)


def _as_head(fitted: Pipeline, layer: int) -> ResidualHead:
    """Weights and intercept for the stream as it is."""
    scaler, model = fitted.steps[0][1], fitted.steps[1][1]
    weights = model.coef_[0] / scaler.scale_
    return ResidualHead(layer, weights.astype(np.float32), float(model.intercept_[0] - weights @ scaler.mean_))
