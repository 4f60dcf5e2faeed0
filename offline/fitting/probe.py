"""Stage 8: cross-validate the variants, choose one, and fit it on all training rows."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offline.features.residuals import Residuals
from offline.features.row_view import RowView
from offline.features.table import MORE_ROWS, Table
from offline.fitting.choose import (
    FOLDS,
    QUESTION_ONLY,
    VARIANTS,
    Candidate,
    FoldPath,
    Variant,
    best_of,
    choose,
    cross_validate,
    fit_variant,
)
from offline.fitting.l1 import L1Fit
from offline.fitting.residual import FittedResidual, fit_residual
from offline.run import Run, RunConfig
from offline.stages import Stage, fingerprint

log = logging.getLogger("hguard.train")

SMALLER = 0.95
"""Step of C on the way under the cap."""


@dataclass(frozen=True)
class Fitted:
    """The chosen fit."""

    candidate: Candidate
    c: float
    """That of the candidate, or smaller where that gave more H-neurons than the cap on all training rows."""
    fit: L1Fit
    view: RowView
    """The training rows, in the units of the fit."""
    grid: list[dict[str, Any]]
    """Every candidate that was cross-validated, for the card."""
    asked: Candidate
    """The best question-only control."""
    residual: FittedResidual

    def served_group(self, locator: str) -> str:
        """Tokens that the served probe pools over; other labellers than `lexical` are not there when it serves."""
        return self.candidate.variant.groups[0] if locator == "lexical" else "response"


def fit_probe(run: Run, table: Table, residuals: Residuals, upstream: str) -> Fitted:
    """Cross-validate the variants, choose, and fit the chosen one on all training rows; likewise the residual head.

    Raises:
        ValueError: A split has too few rows, or no fit is allowed.
    """
    _check_splits(table)
    # Without the lexical locator the probe is served on the whole response, whose features are kept for own rows only.
    variants = [v for v in VARIANTS if locator_of(run.config) == "lexical" or v.position == "own"]
    candidates = cross_validate(table, variants, _selection(run, "selection", variants, upstream))
    asked = cross_validate(table, QUESTION_ONLY, _selection(run, "selection-question", QUESTION_ONLY, upstream))
    neurons = table.groups["answer"].shape[1]
    chosen = choose(candidates, neurons=neurons, max_per_mille=run.config.max_per_mille)
    c, fit, view = fit_capped(table, chosen, most=int(run.config.max_per_mille * neurons / 1000))
    if not (fit.weights > 0).any():  # the folds each found some
        raise ValueError(f"fitted on all training rows, the probe has no H-neuron: they are too few; {MORE_ROWS}")
    log.info("fit: %s, on all training rows C = %.4g", chosen.as_row(), c)
    locator, groups = locator_of(run.config), chosen.variant.groups
    residual = fit_residual(table, residuals, groups[0] if locator == "lexical" else "response")
    log.info("fit: residual stream after layer %d", residual.head.layer)
    return Fitted(
        chosen,
        c,
        fit,
        view,
        grid=[candidate.as_row() for candidate in candidates],
        asked=best_of(asked),
        residual=residual,
    )


def fit_capped(table: Table, chosen: Candidate, *, most: int) -> tuple[float, L1Fit, RowView]:
    """Fit on all training rows, which select more neurons than three quarters of them did, with as large a C as may be.

    Args:
        table: All rows.
        chosen: Its C is the first that is tried.
        most: H-neurons.
    """
    c = chosen.c
    while True:
        (fit,), view = fit_variant(table, table.in_split("train"), chosen.variant, [c])
        if (fit.weights > 0).sum() <= most:
            return c, fit, view
        c *= SMALLER


def locator_of(config: RunConfig) -> str:
    """How the served probe finds answer tokens: as they were labelled if it can, else it takes the whole response."""
    return "lexical" if config.spans == "lexical" else "response"


def _check_splits(table: Table) -> None:
    """Find out before the long fit that the rows are too few."""
    for split in ("train", "unfiltered-calibration", "test", "unfiltered-test"):
        faithful, hallucinated = np.bincount(table.labels[table.in_split(split)], minlength=2).tolist()
        if min(faithful, hallucinated) < 2:
            raise ValueError(
                f"split {split} has too few rows ({faithful} faithful, {hallucinated} hallucinated): {MORE_ROWS}"
            )


def _selection(run: Run, name: str, variants: Sequence[Variant], upstream: str) -> Stage[FoldPath]:
    grid = {variant.name: list(variant.c_values) for variant in variants}
    settings = {"spans": upstream, "dtype": run.config.dtype, "folds": FOLDS, "grid": fingerprint(grid)}
    return Stage(run.out, name, FoldPath, settings)
