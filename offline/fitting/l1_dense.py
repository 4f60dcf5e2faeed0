"""L1 logistic regression on a small dense design, to machine precision.

Newton's method on an active set: hold the sign of every weight, step, set to zero what would change sign, and let in
the columns outside the set that break the optimality conditions most. From a solution nearby it takes a few steps;
where it stalls, far from the solution, liblinear gives the start. On CETT-like features celer and skglm took 5 to 1,000
times as long as liblinear. Every column is penalised; an intercept is a column of ones.
"""

import warnings

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from offline.features.row_view import Float64Array

LIBLINEAR_TOLERANCES = (1e-2, 1e-4, 1e-6, 1e-8)
"""Starts of rising quality, tried in turn until Newton's method goes on from one to the optimum."""
LIBLINEAR_ITERATIONS = 200
"""It needs fewer than 100 where it converges; where rounding keeps it above its tolerance it never stops."""
NEWTON_STEPS = 40
"""It takes 2 to 20 from a solution at a C nearby; further away liblinear is the shorter way."""
NEAR_COLUMNS = 128
"""With more columns that have no weight yet, liblinear's rough solution is the nearer start."""
HALVINGS = 30
ACTIVATED_COLUMNS = 64
"""Columns let into the active set at a time; fewer after steps that threw most of them out again."""
EXACT = 1e-13
"""Breach, in units of the penalty, below which a step would only stir rounding errors."""


def solve_dense(
    design: Float64Array, signs: Float64Array, c: float, start: Float64Array, *, tolerance: float
) -> tuple[Float64Array, float]:
    """Minimise norm1(w) + C * sum_i log(1 + exp(-s_i * (design_i . w))).

    Args:
        design: [rows, columns].
        signs: +1 or -1 [rows].
        c: Inverse penalty.
        start: Weights to start from [columns]; the solution at another C, or zeros.
        tolerance: Largest breach of optimality to aim at, in units of the penalty.

    Returns:
        The weights [columns] and their breach; above the tolerance where float64 carries no further.
    """
    best, best_breach = start, np.inf
    is_near = design.shape[1] - np.count_nonzero(start) <= NEAR_COLUMNS
    for liblinear_tolerance in (None, *LIBLINEAR_TOLERANCES) if is_near else LIBLINEAR_TOLERANCES:
        if liblinear_tolerance is not None:
            start = _fit_liblinear(design, signs, c, liblinear_tolerance)
        weights = _descend(design, signs, c, start, tolerance)
        breach = _largest_breach(design, signs, c, weights)
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


def _largest_breach(design: Float64Array, signs: Float64Array, c: float, weights: Float64Array) -> float:
    residual = signs * expit(-signs * (design @ weights))
    return float(optimality_breach(c * (residual @ design), weights).max())


def _fit_liblinear(design: Float64Array, signs: Float64Array, c: float, tolerance: float) -> Float64Array:
    estimator = LogisticRegression(
        l1_ratio=1.0,
        solver="liblinear",
        C=c,
        fit_intercept=False,
        tol=tolerance,
        max_iter=LIBLINEAR_ITERATIONS,
        random_state=0,
    )
    with warnings.catch_warnings():
        # Only a start: the breach after Newton's method decides.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(design, signs)
    return np.asarray(estimator.coef_[0], dtype=np.float64)


def _descend(
    design: Float64Array, signs: Float64Array, c: float, start: Float64Array, tolerance: float
) -> Float64Array:
    """Newton steps on an active set; the objective never rises."""
    weights, side, batch, last_slack = start.copy(), np.sign(start), ACTIVATED_COLUMNS, np.inf
    for _ in range(NEWTON_STEPS):
        logits = design @ weights
        probability = expit(-signs * logits)
        value = c * ((signs * probability) @ design)
        slack = float(np.abs(value - side)[side != 0].max(initial=0.0))
        outside = np.where(side == 0, np.abs(value) - 1.0, 0.0)
        added = 0
        # Letting columns in pays only once those inside are nearer to their optimum than the ones outside.
        if outside.max() > tolerance and slack <= max(0.1 * float(outside.max()), tolerance):
            added = min(batch, int((outside > tolerance).sum()))
            chosen = np.argpartition(-outside, added - 1)[:added]
            side[chosen] = np.sign(value[chosen])
        elif slack < EXACT or last_slack / 2 < slack < tolerance:
            break
        last_slack = slack
        active = np.flatnonzero(side)
        moved = _newton_step(
            design[:, active],
            signs,
            c,
            logits,
            probability,
            side[active],
            weights[active],
            side[active] - value[active],
        )
        if moved is None:
            if added <= 1:
                break
            # No common descent for so many new columns; one alone always has one.
            side, batch = np.sign(weights), max(1, added // 4)
            continue
        weights[active] = moved
        side = np.sign(weights)
        if 2 * int((moved == 0).sum()) > added > 0:
            batch = max(1, batch // 2)
    return weights


def _newton_step(
    part: Float64Array,
    signs: Float64Array,
    c: float,
    logits: Float64Array,
    probability: Float64Array,
    side: Float64Array,
    weights: Float64Array,
    gradient: Float64Array,
) -> Float64Array | None:
    """Weights of the active columns after one step, those that would change sign at 0; None if no length descends.

    Args:
        part: Active columns [rows, active].
        signs: +1 or -1 [rows].
        c: Inverse penalty.
        logits: Of the rows, now [rows].
        probability: Of the wrong label [rows].
        side: Signs that the weights may have [active].
        weights: [active].
        gradient: Of the objective [active].
    """
    hessian = c * (part.T @ (part * (probability * (1.0 - probability))[:, None]))
    # Repeated columns make the Hessian singular; a step from a slightly larger one still descends.
    hessian[np.diag_indices_from(hessian)] *= 1.0 + 1e-12
    try:
        step = -cho_solve(cho_factor(hessian), gradient)
    except LinAlgError:
        return None
    before = np.logaddexp(0.0, -signs * logits)
    resolution = 1e-12 * c * float(before.sum())
    for halving in range(HALVINGS):
        moved = weights + step / 2**halving
        moved[side * moved <= 0] = 0.0
        change = moved - weights
        # Summed as differences: near the optimum the two losses agree in all but their last digits.
        loss = c * float((np.logaddexp(0.0, -signs * (logits + part @ change)) - before).sum())
        expected = float(gradient @ change)
        if expected < 0 and (loss + float(side @ change) <= 1e-4 * expected or -expected < resolution):
            return np.asarray(moved, dtype=np.float64)
    return None
