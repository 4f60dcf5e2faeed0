"""What is fitted on the feature maps: the assembly of the paper's two modes, and the dense L2 baseline.

    3-vs-1   label 1: answer tokens of hallucinated responses
             label 0: answer tokens of faithful ones, and the other tokens of both
    1-vs-1   answer tokens only

The L1 solver is in `offline.fitting.l1`; which setting is chosen, in `offline.fitting.choose`.

Source: arXiv 2512.01797 and `scripts/classifier.py` of thunlp/H-Neurons.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from offline.features.row_view import RowView, stack_views
from offline.features.stacked_rows import FeatureArray, StackedRows
from offline.fitting.l1 import label_signs

Mode = Literal["3-vs-1", "1-vs-1"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

L2_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
L2_TOLERANCE = 1e-8
"""Of the loss gradient; at scikit-learn's default of 1e-4 the logits differ from the optimum in the third digit."""


def training_view(
    mode: Mode,
    answer: FeatureArray | StackedRows,
    other: FeatureArray | StackedRows,
    labels: Ints,
    place: Ints,
    *,
    has_other: NDArray[np.bool_] | None = None,
) -> tuple[RowView, Ints]:
    """The rows that a mode trains on, without copying any.

    Args:
        mode: Which rows are label 0.
        answer: Mean CETT over answer tokens [responses, neurons].
        other: Mean CETT over the other tokens [responses, neurons]; not read in 1-vs-1.
        labels: 1 = hallucinated, of the chosen responses [n].
        place: Their rows in both maps [n].
        has_other: Which of them have other tokens [n]; the rows of the rest are not read. All of them by default.

    Returns:
        The view and its labels.

    Raises:
        ValueError: One class only, no rows, or lengths that differ.
    """
    label_signs(labels, len(place))
    if mode == "1-vs-1":
        return stack_views([(answer, place)]), labels
    kept = np.ones(len(place), dtype=bool) if has_other is None else has_other
    if kept.shape != place.shape or not kept.any():
        raise ValueError(f"3-vs-1 needs rows of other tokens: {int(kept.sum())} of {len(place)} have any; use 1-vs-1")
    wrong, right = labels == 1, labels == 0
    parts = [(answer, wrong), (answer, right), (other, right & kept), (other, wrong & kept)]
    counts = [int(rows.sum()) for _, rows in parts]
    view = stack_views([(matrix, place[rows]) for matrix, rows in parts])
    return view, np.repeat(np.array([1, 0, 0, 0], dtype=np.int64), counts)


def fit_dense(features: FeatureArray | StackedRows, labels: Ints, train: Ints, place: Ints) -> Floats:
    """Logits of the dense L2 baseline: logistic regression on all standardised neurons.

    Solved in the space of the rows: with far fewer rows than neurons, rotating the training rows onto their own
    principal axes changes neither the penalty nor the loss, so the small problem has the same solution.

    Args:
        features: CETT [responses, neurons].
        labels: Of the training rows, 1 = hallucinated [n].
        train: Rows of `features` to fit on [n].
        place: Rows of `features` to score [R].

    Returns:
        Logits [R]; C is chosen by cross-validation on the training rows.

    Raises:
        ValueError: One class only, or features that are not finite.
    """
    label_signs(labels, len(train))
    rows, back = np.unique(np.concatenate([train, place]), return_inverse=True)
    fitted, scored = back[: len(train)], back[len(train) :]
    standardised = stack_views([(features, train)]).standardised()
    gram = np.zeros((len(rows), len(train)))
    for _, tile in replace(standardised, parts=stack_views([(features, rows)]).parts).column_tiles():
        gram += tile @ tile[fitted].T
    if not np.isfinite(gram).all():
        bad = rows[~np.isfinite(gram).all(axis=1)]
        raise ValueError(f"features of row {bad[0]} and {len(bad) - 1} more are not finite; extract them again")
    values, axes = np.linalg.eigh(gram[fitted])
    kept = values > values.max() * 1e-10
    rotated = gram @ (axes[:, kept] / np.sqrt(values[kept]))
    model = LogisticRegression(max_iter=10_000, tol=L2_TOLERANCE)
    search = GridSearchCV(model, {"C": L2_GRID}, scoring="roc_auc", cv=4)
    search.fit(rotated[fitted], labels)
    return np.asarray(search.decision_function(rotated[scored]), dtype=np.float64)


def export_estimator(
    path: Path, flat: Ints, weights: NDArray[np.floating[Any]], intercept: float, neurons: int
) -> None:
    """Write the probe as a fitted scikit-learn classifier, for people who work there; the service never reads it.

    Args:
        path: Where to.
        flat: Flat indices of the selected neurons [K].
        weights: [K].
        intercept: The intercept.
        neurons: All neurons of the model: columns of `predict_proba`'s input.
    """
    model = LogisticRegression()
    model.coef_ = np.zeros((1, neurons))
    model.coef_[0, flat] = weights
    model.intercept_ = np.array([intercept])
    model.classes_ = np.array([0, 1])
    model.n_features_in_ = neurons
    model.n_iter_ = np.array([0])
    joblib.dump(model, path)
