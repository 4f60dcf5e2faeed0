"""Choose how the probe is fitted: mode, position rule, standardisation and C, by cross-validation on the training rows.

Folds are disjoint by answer string. The best AUROC wins among the settings whose H-neurons stay under a cap (per mille
of all neurons): the cap keeps the probe small. Finished paths are rows of a stage.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from offline.features.row_view import RowView
from offline.features.table import MORE_ROWS, Floats, Ints, Mask, Table
from offline.fitting.fit import Mode, training_view
from offline.fitting.l1 import L1Fit, fit_l1_path
from offline.metrics import auroc
from offline.stages import Stage
from probes.positions import PositionRule

log = logging.getLogger("hguard.train")

FOLDS = 4
C_RAW = (0.3, 1.0, 3.0, 10.0, 30.0)
C_STANDARDISED = (0.005, 0.01, 0.02, 0.03, 0.04, 0.08)


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
        if self.is_standardised:
            return C_STANDARDISED
        return C_RAW if self.tokens == "answer" else C_RAW[:3]  # prompts repeat: larger C nearly separates them

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
    """Of the rows of the fold, one tuple a C; the largest C may be missing."""
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
    fold = np.array([fold_of(table.rows[row].answers_key) for row in train])
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
    c_values = variant.c_values
    while True:
        try:
            fits, view = fit_variant(table, _mask(table, inside), variant, c_values)
            break
        except RuntimeError as error:  # large C on nearly separable rows: the rest of the grid decides
            if len(c_values) == 1:
                raise
            log.warning("%s without fold %d: %s", variant.name, k, error)
            c_values = c_values[:-1]
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
    for number, c in enumerate(variant.c_values[: min(len(path.logits) for path in paths)]):
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
    """The candidate with the best AUROC whose H-neurons stay under the cap; of equals the smallest.

    Raises:
        ValueError: No candidate selects any neuron within the cap.
    """
    found = [c for c in candidates if c.n_h_neurons]
    if not found:
        raise ValueError(f"no C of the grid selects an H-neuron: the training rows are too few; {MORE_ROWS}")
    allowed = [c for c in found if 1000 * c.n_h_neurons / neurons <= max_per_mille]
    if not allowed:
        raise ValueError(f"no C of the grid gives at most {max_per_mille} H-neurons per mille: raise --max-per-mille")
    return best_of(allowed)


def best_of(candidates: Sequence[Candidate]) -> Candidate:
    """The best AUROC; of equals the smallest. A control may select nothing: then it says that nothing is to be seen."""
    return max(candidates, key=lambda c: (c.auroc, -c.n_selected))


def fold_of(key: str) -> int:
    """The fold of an answer string."""
    return hashlib.sha256(f"fold/{key}".encode()).digest()[0] % FOLDS


def _mask(table: Table, rows: Ints) -> NDArray[np.bool_]:
    mask = np.zeros(len(table.rows), dtype=bool)
    mask[rows] = True
    return mask
