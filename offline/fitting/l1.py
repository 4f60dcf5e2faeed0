"""L1 logistic regression over millions of columns, exact and with a certificate.

    minimise over w, b:   norm1(w) + abs(b) + C * sum_i log(1 + exp(-s_i * (x_i . w + b))),   s_i = +1 or -1

This is scikit-learn's `LogisticRegression(l1_ratio=1, solver="liblinear", C=C)`, whose intercept is a column of ones
under the same penalty. Only columns that can have a weight are ever held in memory: solve on a working set, look at the
gradient of every column in one pass over the rows, add the columns that break the optimality conditions, repeat until
none does. Knows nothing of modes, grids or validation rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, xlogy
from threadpoolctl import threadpool_limits

from offline.features.row_view import Float64Array, RowView
from offline.features.stacked_rows import IndexArray
from offline.fitting.l1_dense import optimality_breach, solve_dense

BATCH_COLUMNS = 512
"""Columns added a round, or as many as are selected if that is more: it bounds the working set."""
MAX_ROUNDS = 200
REFINE_COLUMNS = 512
"""Columns recomputed in float64 at a time."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """How far a solution is from the optimum, over every column and not only those it was solved on."""

    breach: float
    """Largest violation of the optimality conditions, in units of the penalty (1): abs(C g_j + sign(w_j)) where w_j is
    not 0, max(abs(C g_j) - 1, 0) elsewhere, g the gradient of the loss; 0 is optimal."""
    duality_gap: float
    """Objective minus a proven lower bound of it, in the objective's unit; rounding can leave it a hair under 0."""
    objective: float
    """Value of the formula above."""

    @property
    def relative_gap(self) -> float:
        """Duality gap as a share of the objective."""
        return self.duality_gap / max(self.objective, float(np.finfo(np.float64).tiny))


@dataclass(frozen=True, eq=False, slots=True)
class L1Fit:
    """A sparse optimum in the view's units (standardised if the view is)."""

    c: float
    columns: IndexArray
    """Columns with a weight, ascending [K]."""
    weights: Float64Array
    """[K], none zero."""
    intercept: float
    certificate: Certificate
    passes: int
    """Passes over all columns that this C took."""


def fit_l1(view: RowView, labels: NDArray[np.integer], c: float, *, tolerance: float = 1e-8) -> L1Fit:
    """The optimum at one C; see `fit_l1_path`."""
    return fit_l1_path(view, labels, [c], tolerance=tolerance)[0]


def fit_l1_path(
    view: RowView, labels: NDArray[np.integer], c_values: Sequence[float], *, tolerance: float = 1e-8
) -> tuple[L1Fit, ...]:
    """The optima along a grid, each started from the one before it.

    Args:
        view: Features [rows, columns].
        labels: 1 = hallucinated, 0 = not [rows].
        c_values: Inverse penalties, ascending.
        tolerance: Largest breach that counts as optimal, in units of the penalty.

    Returns:
        One fit a C, in the order given.

    Raises:
        ValueError: One class only, features not finite, or C not positive and ascending.
        RuntimeError: The tolerance was not reached.
    """
    if not c_values or c_values[0] <= 0 or any(low >= high for low, high in pairwise(c_values)):
        raise ValueError(f"C values must be positive and ascending, got {list(c_values)}")
    signs = label_signs(labels, view.n_rows)
    # The products here are small: on a busy machine BLAS threads waiting for each other double the work.
    with threadpool_limits(limits=1):
        solver = _Solver(view, signs, tolerance)
        return tuple(solver.solve(float(c)) for c in c_values)


def certify(
    view: RowView, labels: NDArray[np.integer], c: float, columns: IndexArray, weights: Float64Array, intercept: float
) -> Certificate:
    """Certificate of any weights, from one float64 pass over all columns; shares nothing with the solver's screening.

    Args:
        view: Features [rows, columns], in the units of the weights.
        labels: 1 or 0 [rows].
        c: Inverse penalty.
        columns: Columns with a weight [K].
        weights: Their weights [K].
        intercept: The intercept.
    """
    signs = label_signs(labels, view.n_rows)
    logits = view.take_columns(columns) @ weights + intercept
    residual = signs * expit(-signs * logits)
    correlation = np.concatenate([residual @ tile for _, tile in view.column_tiles()] + [[residual.sum()]])
    dense = np.zeros(view.n_columns + 1)
    dense[columns], dense[-1] = weights, intercept
    breach = float(optimality_breach(c * correlation, dense).max())
    return _certificate(signs, logits, c, breach, c * float(np.abs(correlation).max()), float(np.abs(dense).sum()))


def label_signs(labels: NDArray[np.integer], n_rows: int) -> Float64Array:
    """Labels 1 and 0 -> +1 and -1 [rows].

    Raises:
        ValueError: No rows, wrong length, other values, or one class only.
    """
    values = np.asarray(labels)
    if n_rows == 0:
        raise ValueError("no labelled rows: the split is empty; check the labels and the split names")
    if values.shape != (n_rows,):
        raise ValueError(f"{n_rows} feature rows but labels of shape {values.shape}; give one label a row")
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"labels must be 1 (hallucinated) or 0, got {np.unique(values)[:5].tolist()}")
    if values.min() == values.max():
        raise ValueError(
            f"all {n_rows} rows have label {int(values[0])}: a probe needs both classes; "
            "sample more questions, or another question set"
        )
    return np.where(values == 1, 1.0, -1.0)


class _Solver:
    """The state that one C hands to the next: weights, residual, and the correlation of every column with it."""

    def __init__(self, view: RowView, signs: Float64Array, tolerance: float) -> None:
        self._view, self._signs, self._tolerance = view, signs, tolerance
        self._support: IndexArray = np.empty(0, dtype=np.int64)
        self._weights: Float64Array = np.empty(0)
        self._intercept = 0.0
        self._residual = signs / 2  # at w = 0, b = 0
        self._correlation, self._rounding = view.correlate(self._residual)

    def solve(self, c: float) -> L1Fit:
        for passes in range(1, MAX_ROUNDS + 1):
            working = np.union1d(self._support, self._strongest(c))
            design = np.column_stack([self._view.take_columns(working), np.ones(self._view.n_rows)])
            start = np.zeros(working.size + 1)
            start[np.searchsorted(working, self._support)], start[-1] = self._weights, self._intercept
            dense, inner = solve_dense(design, self._signs, c, start, tolerance=self._tolerance / 10)
            logits = design @ dense
            self._residual = self._signs * expit(-self._signs * logits)
            self._correlation, self._rounding = self._view.correlate(self._residual)
            # What the working set holds is known exactly, and solved: the next round must not take it for new.
            self._correlation[working], self._rounding[working] = self._residual @ design[:, :-1], 0.0
            is_selected = dense[:-1] != 0
            self._support, self._weights = working[is_selected], dense[:-1][is_selected]
            self._intercept = float(dense[-1])
            self._refine(c, working)
            upper = c * (np.abs(self._correlation) + self._rounding)
            breach = max(inner, float(np.delete(upper, working).max(initial=0.0)) - 1.0)
            if breach <= self._tolerance:
                largest = max(float(upper.max()), c * abs(float(self._residual.sum())))
                size = float(np.abs(dense).sum())
                certificate = _certificate(self._signs, logits, c, breach, largest, size)
                return L1Fit(c, self._support, self._weights, self._intercept, certificate, passes)
            if inner > self._tolerance:
                break
        raise RuntimeError(
            f"L1 fit at C={c:g} stopped at a breach of {breach:.1e} of the penalty, above {self._tolerance:.1e}: "
            "the classes are nearly separable there; use smaller C, or a tolerance above that breach"
        )

    def _strongest(self, c: float) -> IndexArray:
        """Columns outside the support that would take a weight, those with the largest gradient first."""
        excess = c * np.abs(self._correlation) - 1.0
        excess[self._support] = 0.0
        violators = np.flatnonzero(excess > self._tolerance)
        batch = max(BATCH_COLUMNS, self._support.size)
        if violators.size > batch:
            violators = violators[np.argpartition(-excess[violators], batch)[:batch]]
        return violators

    def _refine(self, c: float, working: IndexArray) -> None:
        """Recompute in float64 the columns whose rounding bound leaves open on which side of the penalty they are."""
        size = np.abs(self._correlation)
        size[working] = 0.0
        if (c * (size - self._rounding) > 1.0 + self._tolerance).any():
            return  # another round is certain
        unsure = np.flatnonzero(c * (size + self._rounding) > 1.0)
        for start in range(0, unsure.size, REFINE_COLUMNS):
            columns = unsure[start : start + REFINE_COLUMNS]
            self._correlation[columns] = self._residual @ self._view.take_columns(columns)
            self._rounding[columns] = 0.0


def _certificate(
    signs: Float64Array, logits: Float64Array, c: float, breach: float, largest: float, size: float
) -> Certificate:
    """Lower bound from the dual: C * sum of the entropies of q, valid where abs(C * X^T (s q)) <= 1 in every column."""
    objective = size + c * float(np.logaddexp(0.0, -signs * logits).sum())
    dual = expit(-signs * logits) / max(1.0, largest)
    bound = -c * float((xlogy(dual, dual) + xlogy(1.0 - dual, 1.0 - dual)).sum())
    return Certificate(max(breach, 0.0), objective - bound, objective)
