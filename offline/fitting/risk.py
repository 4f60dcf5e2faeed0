"""Stage 9: the served risk. Weights are fitted on training rows; parts are chosen on these and calibration rows.

Calibrates and sets thresholds on calibration rows.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from offline.features.table import Floats, Mask, Table
from offline.fitting.budgets import choose_budgets
from offline.fitting.calibrate import choose_calibration, choose_threshold
from offline.fitting.combination import (
    FREE_PARTS,
    Columns,
    Removal,
    choose_parts,
    distances,
    fit_combination,
    fit_domain,
    part_columns,
)
from probes.domain import Domain
from probes.parts import Part
from probes.risk import Budget, RiskModel

log = logging.getLogger("hguard.train")


@dataclass(frozen=True)
class ServedRisk:
    """What the artifact says of the risk, and how every labelled row fares under it."""

    model: RiskModel
    domain: Domain
    threshold: float
    budgets: tuple[Budget, ...]
    logits: Floats
    """Combined, before calibration [R]."""
    refits: Mapping[Part, Floats]
    """Part -> logits [R] of the same combination without it; of a part that is not served, with it."""
    free: Floats
    """Logits [R] of the free parts alone, combined in the same way."""
    outside: Mask
    """Which rows are out of domain [R]."""
    chosen: dict[str, Any]
    """How it was chosen, for the card."""


def fit_risk(table: Table, heads: Columns, locator: str, *, seed: int) -> ServedRisk:
    """Fit the risk.

    Args:
        table: All rows, R.
        heads: Pooled logits of the probe and the residual head [R]; of training rows the out-of-fold ones.
        locator: The served probe's.
        seed: Of the calibration's folds.

    Raises:
        ValueError: The rows give no risk; says why.
    """
    columns = part_columns(table, heads, locator)
    labels, train, calibrating = table.labels, table.in_split("train"), table.in_split("unfiltered-calibration")
    parts, removals = choose_parts(columns, table)
    combination = fit_combination(columns, labels, train, parts)
    logits = combination.logits(columns)
    calibration, brier = choose_calibration(logits[calibrating], labels[calibrating], seed=seed)
    risks = calibration.risks(logits[calibrating])
    measured = {part: column for part, column in columns.items() if part != "residual" or part in combination.weights}
    domain = fit_domain(measured, train)
    risk = ServedRisk(
        model=RiskModel(combination.weights, combination.intercept, calibration),
        domain=domain,
        threshold=choose_threshold(risks, labels[calibrating]),
        budgets=choose_budgets(risks, labels[calibrating]),
        logits=logits,
        refits=_refit(columns, table, tuple(combination.weights)),
        free=fit_combination(columns, labels, train, FREE_PARTS).logits(columns),
        outside=distances(domain, columns) > domain.cutoff,
        chosen=_describe(columns, train, combination.weights, removals, calibration.kind, brier),
    )
    log.info("calibrate: %s, %s, threshold %.3f", ", ".join(combination.weights), calibration.kind, risk.threshold)
    return risk


def _refit(columns: Columns, table: Table, served: tuple[Part, ...]) -> dict[Part, Floats]:
    labels, train = table.labels, table.in_split("train")
    return {
        part: fit_combination(columns, labels, train, [p for p in columns if (p in served) != (p == part)]).logits(
            columns
        )
        for part in columns
    }


def _describe(
    columns: Columns,
    train: Mask,
    weights: Mapping[Part, float],
    removals: list[Removal],
    calibration: str,
    brier: Mapping[str, float],
) -> dict[str, Any]:
    return {
        "parts": {
            part: {"weight": round(w, 5), "per_standard_deviation": round(w * float(np.std(columns[part][train])), 3)}
            for part, w in weights.items()
        },
        "elimination": [removal.as_row() for removal in removals],
        "calibration": {"kind": calibration, "cross_validated_brier": {k: round(v, 5) for k, v in brier.items()}},
    }
