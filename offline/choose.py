"""Choose how the probe is fitted: mode, position rule, standardisation and C, by cross-validation on the training rows.

Folds are disjoint by answer string. Of all settings within one standard error of the best AUROC the one with the fewest
selected neurons wins: a probe should be small unless size pays. Finished paths are rows of a stage.
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
from offline.stages import Stage
from offline.table import MORE_ROWS, Floats, Ints, Mask, Table
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
    def name(self) -> str:
        """Names the variant in stage rows."""
        units = "standardised" if self.is_standardised else "raw"
        return f"{self.mode} {self.position} {units} {self.tokens}"

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


@dataclass(frozen=True, slots=True)
class FoldPath:
    """One variant fitted along its grid without one fold."""

    variant: str
    fold: int
    logits: tuple[tuple[float, ...], ...]
    """Of the rows of the fold, one tuple a C."""
    n_selected: tuple[int, ...]
    """One a C."""
    n_h_neurons: tuple[int, ...]


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
    values = np.asarray(table.groups[group][table.place[rows][:, None], fit.columns], dtype=np.float64)
    return np.asarray(values @ weights + intercept, dtype=np.float64)


def raw_units(fit: L1Fit, view: RowView) -> tuple[Floats, float]:
    """Weights [K] and intercept for raw CETT, whatever units the view had."""
    weights = fit.weights / view.scale[fit.columns] if view.scale is not None else fit.weights
    shift = float(weights @ view.center[fit.columns]) if view.center is not None else 0.0
    return weights, fit.intercept - shift


def cross_validate(table: Table, variants: Sequence[Variant], stage: Stage[FoldPath]) -> list[Candidate]:
    """Every variant at every C of its grid.

    Args:
        table: All rows; only those of `train` are used.
        variants: What to try.
        stage: Keeps the finished paths.

    Raises:
        ValueError: A fold holds one class only.
    """
    train = np.flatnonzero(table.in_split("train"))
    labels = table.labels[train]
    fold = np.array([_fold_of(table.rows[row].answers_key) for row in train])
    if any(len(set(labels[fold == k])) < 2 for k in range(FOLDS)):
        raise ValueError(
            f"{(labels == 0).sum()} faithful and {(labels == 1).sum()} hallucinated training rows are too few: each of "
            f"{FOLDS} folds needs both; {MORE_ROWS}"
        )
    done = {(path.variant, path.fold): path for path in stage.rows()}
    todo = [(variant, k) for variant in variants for k in range(FOLDS) if (variant.name, k) not in done]
    if not stage.is_complete:
        total = len(variants) * FOLDS
        with stage, tqdm(total=total, initial=total - len(todo), desc=stage.name, unit="path") as bar:
            for variant, k in todo:
                path = _fit_without(table, variant, k, inside=train[fold != k], outside=train[fold == k])
                done[variant.name, k] = path
                stage.append([path])
                bar.update()
        stage.finish(paths=total)
    return [
        candidate
        for variant in variants
        for candidate in _summarise(variant, [done[variant.name, k] for k in range(FOLDS)], fold, labels)
    ]


def _fit_without(table: Table, variant: Variant, k: int, *, inside: Ints, outside: Ints) -> FoldPath:
    fits, view = fit_variant(table, _mask(table, inside), variant, variant.c_values)
    held_out = _mask(table, outside)
    return FoldPath(
        variant=variant.name,
        fold=k,
        logits=tuple(tuple(score(table, variant.groups[0], held_out, fit, view).tolist()) for fit in fits),
        n_selected=tuple(len(fit.columns) for fit in fits),
        n_h_neurons=tuple(int((fit.weights > 0).sum()) for fit in fits),
    )


def _summarise(variant: Variant, paths: Sequence[FoldPath], fold: Ints, labels: Ints) -> list[Candidate]:
    candidates = []
    for number, c in enumerate(variant.c_values):
        out_of_fold = np.zeros(len(labels))
        for path in paths:
            out_of_fold[fold == path.fold] = path.logits[number]
        folds = [auroc(out_of_fold[fold == k], labels[fold == k]) for k in range(FOLDS)]
        candidates.append(
            Candidate(
                variant=variant,
                c=c,
                auroc=float(np.mean(folds)),
                standard_error=float(np.std(folds, ddof=1) / np.sqrt(FOLDS)),
                n_selected=float(np.mean([path.n_selected[number] for path in paths])),
                n_h_neurons=float(np.mean([path.n_h_neurons[number] for path in paths])),
                out_of_fold=out_of_fold,
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
