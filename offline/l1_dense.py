"""L1 logistic regression on a small dense design, to machine precision.

liblinear finds which columns have a weight and nearly what weight; Newton steps on those columns make it exact. celer
and skglm were tried in its place: on CETT-like features they took 5 to 1,000 times as long. Every column is penalised;
an intercept is a column of ones.
"""

import warnings

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from offline.row_view import Float64Array

LIBLINEAR_TOLERANCES = (1e-4, 1e-6, 1e-8, 1e-10)
"""Tried in turn until Newton steps make the outcome exact; the first is mostly enough."""
MAX_ITERATIONS = 200
"""liblinear needs fewer than 100 where it converges; where rounding keeps it above its tolerance it never stops."""
MAX_NEWTON_STEPS = 100
EXACT = 1e-13
"""Breach, in units of the penalty, below which a Newton step would only stir rounding errors."""


def solve_dense(design: Float64Array, signs: Float64Array, c: float, *, tolerance: float) -> tuple[Float64Array, float]:
    """Minimise norm1(w) + C * sum_i log(1 + exp(-s_i * (design_i . w))).

    Args:
        design: [rows, columns].
        signs: +1 or -1 [rows].
        c: Inverse penalty.
        tolerance: Largest breach of optimality to aim at, in units of the penalty.

    Returns:
        The weights [columns] and their breach; above the tolerance where float64 carries no further.
    """
    best, best_breach = np.zeros(design.shape[1]), np.inf
    for liblinear_tolerance in LIBLINEAR_TOLERANCES:
        estimator = LogisticRegression(
            l1_ratio=1.0,
            solver="liblinear",
            C=c,
            fit_intercept=False,
            tol=liblinear_tolerance,
            max_iter=MAX_ITERATIONS,
            random_state=0,
        )
        with warnings.catch_warnings():
            # The breach below decides, not liblinear's own stopping rule.
            warnings.simplefilter("ignore", ConvergenceWarning)
            estimator.fit(design, signs)
        weights = _polish(design, signs, c, estimator.coef_[0].astype(np.float64))
        breach = float(optimality_breach(c * _correlate(design, signs, weights), weights).max())
        if breach < best_breach:
            best, best_breach = weights, breach
        if best_breach <= tolerance:
            break
    return best, best_breach


def optimality_breach(scaled_correlation: Float64Array, weights: Float64Array) -> Float64Array:
    """How far each column is from its optimality condition, in units of the penalty.

    Args:
        scaled_correlation: C * X^T (s * sigma(-s * logit)), minus C times the loss gradient [columns].
        weights: [columns].

    Returns:
        abs(value - sign(w)) where w is not 0, max(abs(value) - 1, 0) elsewhere [columns].
    """
    outside = np.maximum(np.abs(scaled_correlation) - 1.0, 0.0)
    return np.where(weights != 0, np.abs(scaled_correlation - np.sign(weights)), outside)


def _correlate(design: Float64Array, signs: Float64Array, weights: Float64Array) -> Float64Array:
    residual: Float64Array = signs * expit(-signs * (design @ weights))
    return residual @ design


def _polish(design: Float64Array, signs: Float64Array, c: float, weights: Float64Array) -> Float64Array:
    """Newton's method on the columns that have a weight, signs held; a weight that reaches 0 is dropped there."""
    support = np.flatnonzero(weights)
    part, values = np.ascontiguousarray(design[:, support]), weights[support]
    for _ in range(MAX_NEWTON_STEPS):
        if support.size == 0:
            break
        side = np.sign(values)
        logits = part @ values
        probability = expit(-signs * logits)
        gradient = side - c * ((signs * probability) @ part)
        if np.abs(gradient).max() < EXACT:
            break
        hessian = c * (part.T @ (part * (probability * (1.0 - probability))[:, None]))
        # Repeated columns make the Hessian singular; a step from a slightly larger one still descends.
        hessian[np.diag_indices_from(hessian)] *= 1.0 + 1e-12
        try:
            step = -cho_solve(cho_factor(hessian), gradient)
        except LinAlgError:
            break
        crosses = side * (values + step) <= 0
        reach = np.full(support.size, np.inf)
        reach[crosses] = -values[crosses] / step[crosses]
        length = min(1.0, float(reach.min()))
        change = _search(part @ step, logits, signs, c, float(side @ step), float(gradient @ step), length)
        if change == 0.0:
            break
        values = values + change * step
        if change == reach.min():
            keep = reach > change
            support, part, values = support[keep], np.ascontiguousarray(part[:, keep]), values[keep]
    polished = np.zeros_like(weights)
    polished[support] = values
    return polished


def _search(
    slope: Float64Array, logits: Float64Array, signs: Float64Array, c: float, size: float, descent: float, length: float
) -> float:
    """The longest of length, length/2, ... that lowers the objective enough; 0 if none does.

    Args:
        slope: Change of the logits for a whole step [rows].
        logits: Where the step starts [rows].
        signs: +1 or -1 [rows].
        c: Inverse penalty.
        size: Change of norm1(w) for a whole step.
        descent: Gradient of the objective along the step, negative.
        length: First length to try.
    """
    before = np.logaddexp(0.0, -signs * logits)
    for _ in range(40):
        after = np.logaddexp(0.0, -signs * (logits + length * slope))
        # Summed as differences: near the optimum the two sums agree in all but their last digits.
        gained = c * float((after - before).sum()) + length * size
        if gained <= 1e-4 * length * descent or abs(length * descent) < 1e-12 * c * float(before.sum()):
            return length
        length /= 2
    return 0.0
