"""The served risk's combination of parts: which parts, and their weights. Sees training and calibration rows only.

A logistic regression whose weights keep to the signs of `probes.parts`, so that a less certain token never looks safer.
It is fitted on training rows, of whose CETT logits it sees the out-of-fold ones: those of the fit itself are too good.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from offline.features.table import Floats, Ints, Mask, Table
from offline.fitting.calibrate import fit_platt
from offline.fitting.choose import FOLDS, fold_of
from probes.domain import Domain, PartRange
from probes.parts import SIGNS, Part

Columns = Mapping[Part, Floats]
"""Part -> its value for every labelled row [R]."""

PENALTY = 1.0
"""L2 on standardised weights, as in `offline.fitting.baselines.combine`."""
NOISE = 1.645
"""Standard errors of the rise in log-loss over which a part counts as useful: one-sided 95%."""
OUTSIDE = 0.99
"""Quantile of the training rows' distances that is the cutoff of the domain."""


FREE_PARTS: tuple[Part, ...] = tuple(part for part in SIGNS if part not in ("cett", "residual"))
_SIGNAL_OF = {"length": "n_tokens"}


@dataclass(frozen=True)
class Combination:
    """Weights [parts] and intercept, in raw units."""

    weights: Mapping[Part, float]
    intercept: float

    def logits(self, columns: Columns) -> Floats:
        """Of all rows [R]."""
        total = np.full_like(next(iter(columns.values())), self.intercept)
        for part, weight in self.weights.items():
            total += weight * columns[part]
        return total


@dataclass(frozen=True)
class Removal:
    """One step of the elimination: what leaving out a part costs."""

    part: Part
    cost: float
    """Rise of the mean out-of-fold log-loss."""
    standard_error: float
    """Between answer strings."""
    is_removed: bool

    def as_row(self) -> dict[str, Any]:
        """For the card."""
        return {
            "part": self.part,
            "cost": round(self.cost, 5),
            "standard_error": round(self.standard_error, 5),
            "removed": self.is_removed,
        }


def part_columns(table: Table, heads: Columns, locator: str) -> dict[Part, Floats]:
    """The parts of every row, over the tokens that the served probe pools.

    Args:
        table: All rows, R.
        heads: Pooled logits of the probe and the residual head [R]; of training rows the out-of-fold ones.
        locator: The served probe's.
    """
    prefix = "" if locator == "lexical" else "response_"
    free = {part: table.signals[prefix + _SIGNAL_OF.get(part, part)] for part in FREE_PARTS}
    return {part: heads[part] if part in heads else free[part] for part in SIGNS if part in heads or part in free}


def fit_combination(columns: Columns, labels: Ints, rows: Mask, parts: Iterable[Part]) -> Combination:
    """Fit the weights of some parts on some rows; a part that would need the other sign gets none."""
    used = [part for part in parts if np.ptp(columns[part][rows]) > 0]
    x = np.stack([np.ones(rows.sum()), *(columns[part][rows] for part in used)], axis=1)
    mean, scale = x[:, 1:].mean(axis=0), x[:, 1:].std(axis=0)
    x[:, 1:] = (x[:, 1:] - mean) / scale
    sign = np.where(labels[rows] == 1, 1.0, -1.0)

    def loss(weights: Floats) -> tuple[float, Floats]:
        margin = sign * (x @ weights)
        penalised = np.concatenate([[0.0], PENALTY * weights[1:]])
        slope = -sign * 0.5 * (1 - np.tanh(0.5 * margin))
        return float(np.logaddexp(0, -margin).sum() + 0.5 * (penalised @ weights)), x.T @ slope + penalised

    bounds = [(None, None), *((0 if SIGNS[p] > 0 else None, 0 if SIGNS[p] < 0 else None) for p in used)]
    start = np.zeros(len(used) + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13, "gtol": 1e-8})
    raw = found.x[1:] / scale
    weights: dict[Part, float] = {part: float(w) for part, w in zip(used, raw, strict=True) if w != 0}
    return Combination(weights, float(found.x[0] - raw @ mean))


def choose_parts(columns: Columns, table: Table) -> tuple[tuple[Part, ...], list[Removal]]:
    """Backward elimination: as long as some part can be left out at no cost beyond noise, the cheapest goes.

    The cost is the rise of the log-loss on rows that no weight was fitted on: training rows of another fold (disjoint
    by answer string), and unfiltered calibration rows (after Platt's two numbers on them), which come at the rate and
    with the probe that are served. Its standard error is that of whole answers, not of rows: rows with one answer
    string rise and fall together (Liang and Zeger 1986).

    Returns:
        The parts that are served, at least one, and every step: each removed part at its turn, then the kept ones.
    """
    train, calibrating = table.in_split("train"), table.in_split("unfiltered-calibration")
    answers = np.array([row.answers_key for row in table.rows])
    fold = np.array([fold_of(answer) for answer in answers])
    judged = np.concatenate([answers[train], answers[calibrating]])

    def unseen_losses(parts: Sequence[Part]) -> Floats:
        seen = (columns, table.labels, train)
        return np.concatenate([_out_of_fold_losses(*seen, fold, parts), _calibrated_losses(*seen, calibrating, parts)])

    parts, steps = list(columns), list[Removal]()
    while True:
        losses = unseen_losses(parts)
        costs = []
        for part in parts:
            rise = unseen_losses([other for other in parts if other != part]) - losses
            costs.append((float(rise.mean()), clustered_error(rise, judged), part))
        free = [found for found in costs if found[0] <= NOISE * found[1]]
        if not free or len(parts) == 1:
            return tuple(parts), steps + [Removal(part, cost, error, is_removed=False) for cost, error, part in costs]
        cost, error, part = min(free)
        parts.remove(part)
        steps.append(Removal(part, cost, error, is_removed=True))


def clustered_error(values: Floats, clusters: NDArray[np.str_]) -> float:
    """Standard error of the mean of values [R] that are independent between clusters [R] and not within them.

    With one value a cluster it is the ordinary one, s / sqrt(R). One cluster alone has none: infinite.
    """
    _, at = np.unique(clusters, return_inverse=True)
    n = at.max() + 1
    if n == 1:
        return float("inf")
    sums = np.bincount(at, weights=values - values.mean())
    return float(np.sqrt(n / (n - 1) * (sums @ sums)) / len(values))


def fit_domain(columns: Columns, rows: Mask) -> Domain:
    """The range of every part over some rows; a part that is the same everywhere says nothing and is left out.

    Raises:
        ValueError: All parts are the same everywhere.
    """
    ranges: dict[Part, PartRange] = {}
    for part, column in columns.items():
        low, median, high = np.quantile(column[rows], [0.025, 0.5, 0.975])
        least = 0.1 * (high - low)  # counts pile up: the median length may be the shortest one
        if least > 0:
            ranges[part] = PartRange(float(min(low, median - least)), float(median), float(max(high, median + least)))
    shape = Domain(ranges, cutoff=1.0)
    return Domain(ranges, float(np.quantile(distances(shape, columns)[rows], OUTSIDE)))


def distances(domain: Domain, columns: Columns) -> Floats:
    """Distance of every row from the domain's middle [R]."""
    names = list(domain.ranges)
    rows = zip(*(columns[name] for name in names), strict=True)
    return np.array([domain.distance(dict(zip(names, map(float, row), strict=True))) for row in rows])


def _out_of_fold_losses(columns: Columns, labels: Ints, train: Mask, fold: Ints, parts: Sequence[Part]) -> Floats:
    """Log-loss of each training row under a fit without its fold."""
    losses = np.zeros(len(labels))
    for k in range(FOLDS):
        outside = train & (fold == k)
        margin = np.where(labels == 1, 1.0, -1.0) * fit_combination(columns, labels, train & (fold != k), parts).logits(
            columns
        )
        losses[outside] = np.logaddexp(0, -margin[outside])
    return losses[train]


def _calibrated_losses(columns: Columns, labels: Ints, train: Mask, calibrating: Mask, parts: Sequence[Part]) -> Floats:
    """Log-loss of each calibration row under the fit on all training rows, with Platt's map to the rows' own rate."""
    logits, own = fit_combination(columns, labels, train, parts).logits(columns)[calibrating], labels[calibrating]
    try:
        risks = fit_platt(logits, own).risks(logits)
    except ValueError:  # these parts do not order the rows at all: their share is all that is known
        risks = np.full(len(own), own.mean() if len(own) else 0.0)
    return np.asarray(-np.log(np.where(own == 1, risks, 1 - risks)))
