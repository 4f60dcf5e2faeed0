"""Choose how the probe is fitted: mode, position rule, standardisation and C, by cross-validation on the training rows.

Folds are disjoint by answer string. Of all settings within one standard error of the best AUROC the one with the fewest
selected neurons wins: a probe should be small unless size pays.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from offline.fit import Mode, training_view
from offline.l1 import L1Fit, fit_l1_path
from offline.metrics import auroc
from offline.row_view import RowView
from offline.table import Floats, Ints, Mask, Table
from probes.positions import PositionRule

FOLDS = 4
C_RAW = (0.3, 1.0, 3.0, 10.0, 30.0)
C_STANDARDISED = (0.003, 0.01, 0.02, 0.04, 0.08)


@dataclass(frozen=True)
class Variant:
    """One way to fit."""

    mode: Mode
    position: PositionRule
    is_standardised: bool
    tokens: Literal["answer", "prompt"] = "answer"
    """`prompt`: the question-only control, the same probe on tokens before the answer."""

    @property
    def c_values(self) -> tuple[float, ...]:
        """The grid; standardised features need much smaller values."""
        return C_STANDARDISED if self.is_standardised else C_RAW

    @property
    def groups(self) -> tuple[str, str]:
        """Feature groups of label 1's tokens and of the others."""
        if self.tokens == "prompt":
            return "prompt", "prompt"
        return ("answer", "other") if self.position == "own" else ("answer_ahead", "other_ahead")


@dataclass(frozen=True)
class Candidate:
    """One variant at one C, cross-validated."""

    variant: Variant
    c: float
    auroc: float
    standard_error: float
    """Of the AUROC over folds."""
    n_selected: float
    """Mean over folds."""
    n_h_neurons: float
    out_of_fold: Floats
    """Logit of every training row from the fold that did not see it [rows]."""

    def as_row(self) -> dict[str, Any]:
        """For the card."""
        return {
            **asdict(self.variant),
            "C": self.c,
            "auroc": round(self.auroc, 4),
            "standard_error": round(self.standard_error, 4),
            "n_selected": round(self.n_selected, 1),
            "n_h_neurons": round(self.n_h_neurons, 1),
        }


_MODES: tuple[Mode, ...] = ("3-vs-1", "1-vs-1")
_POSITIONS: tuple[PositionRule, ...] = ("own", "predicting")
VARIANTS = tuple(Variant(*settings) for settings in product(_MODES, _POSITIONS, (False, True)))
QUESTION_ONLY = tuple(Variant("1-vs-1", "own", is_standardised, tokens="prompt") for is_standardised in (False, True))


def fit_variant(
    table: Table, rows: Mask, variant: Variant, c_values: Sequence[float]
) -> tuple[tuple[L1Fit, ...], RowView]:
    """Fit on some rows; the view says in which units."""
    answer, other = (table.groups[name] for name in variant.groups)
    view, labels = training_view(variant.mode, answer, other, table.labels[rows], table.place[rows])
    if variant.is_standardised:
        view = view.standardised()
    return fit_l1_path(view, labels, c_values), view


def score(table: Table, group: str, rows: Mask, fit: L1Fit, view: RowView) -> Floats:
    """Logits of some rows [n] under a fit."""
    weights, intercept = raw_units(fit, view)
    values = np.asarray(table.groups[group][table.place[rows]][:, fit.columns], dtype=np.float64)
    return np.asarray(values @ weights + intercept, dtype=np.float64)


def raw_units(fit: L1Fit, view: RowView) -> tuple[Floats, float]:
    """Weights [K] and intercept for raw CETT, whatever units the view had."""
    weights = fit.weights / view.scale[fit.columns] if view.scale is not None else fit.weights
    shift = float(weights @ view.center[fit.columns]) if view.center is not None else 0.0
    return weights, fit.intercept - shift


def cross_validate(table: Table, variants: Sequence[Variant] = VARIANTS) -> list[Candidate]:
    """Every variant at every C of its grid."""
    train = np.flatnonzero(table.in_split("train"))
    fold = np.array([_fold_of(table.rows[row].answers_key) for row in train])
    candidates = []
    with tqdm(total=len(variants) * FOLDS, desc="cross-validation", unit="path") as bar:
        for variant in variants:
            logits = np.zeros((len(variant.c_values), len(train)))
            sizes = np.zeros((len(variant.c_values), FOLDS, 2))
            for k in range(FOLDS):
                inside, outside = (_mask(table, train[which]) for which in (fold != k, fold == k))
                fits, view = fit_variant(table, inside, variant, variant.c_values)
                for number, fit in enumerate(fits):
                    logits[number, fold == k] = score(table, variant.groups[0], outside, fit, view)
                    sizes[number, k] = len(fit.columns), (fit.weights > 0).sum()
                bar.update()
            labels = table.labels[train]
            for number, c in enumerate(variant.c_values):
                folds = [auroc(logits[number, fold == k], labels[fold == k]) for k in range(FOLDS)]
                candidates.append(
                    Candidate(
                        variant=variant,
                        c=c,
                        auroc=float(np.mean(folds)),
                        standard_error=float(np.std(folds, ddof=1) / np.sqrt(FOLDS)),
                        n_selected=float(sizes[number, :, 0].mean()),
                        n_h_neurons=float(sizes[number, :, 1].mean()),
                        out_of_fold=logits[number],
                    )
                )
    return candidates


def choose(candidates: Sequence[Candidate], *, neurons: int, max_per_mille: float) -> Candidate:
    """The smallest probe within one standard error of the best allowed one.

    Raises:
        ValueError: No candidate selects any neuron within the cap.
    """
    allowed = [c for c in candidates if c.n_h_neurons and 1000 * c.n_h_neurons / neurons <= max_per_mille]
    if not allowed:
        raise ValueError(f"no C of the grid gives at most {max_per_mille} H-neurons per mille: raise --max-per-mille")
    best = max(allowed, key=lambda c: c.auroc)
    return min(
        (c for c in allowed if c.auroc >= best.auroc - best.standard_error), key=lambda c: (c.n_selected, -c.auroc)
    )


def _fold_of(key: str) -> int:
    return hashlib.sha256(f"fold/{key}".encode()).digest()[0] % FOLDS


def _mask(table: Table, rows: Ints) -> NDArray[np.bool_]:
    mask = np.zeros(len(table.rows), dtype=bool)
    mask[rows] = True
    return mask
