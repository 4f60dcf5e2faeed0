"""The locator head: an L2 logistic regression on the residual stream of one token, membership in the gold span.

Sees training responses only, in folds that are disjoint by answer string. Layer and C are chosen by average precision
of the tokens, the threshold by their F1, all out of fold.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from offline.fitting.choose import FOLDS, fold_of
from offline.locating.token_rows import TokenRows
from offline.longer_text.unit_metrics import best_threshold
from probes.probe import ResidualHead

C_VALUES = (1e-4, 1e-3, 1e-2)
"""Of standardised streams, unweighted tokens."""


@dataclass(frozen=True)
class LocatorTokens:
    """Some responses' tokens with their labels."""

    passages: NDArray[np.int64]
    """Passages of the token rows [P]."""
    keys: tuple[str, ...]
    """What folds are disjoint by, one a passage."""
    gold: tuple[NDArray[np.bool_], ...]
    """Which tokens of a passage are in its gold span, one array [T] a passage; none of a refusal's."""


@dataclass(frozen=True)
class FittedLocator:
    """A head, its threshold, and how it was chosen."""

    head: ResidualHead
    threshold: float
    """Logit from which a token is taken."""
    unseen: tuple[NDArray[np.float64], ...]
    """Logits of the training tokens from the fold that did not see them, one array [T] a passage."""
    grid: list[dict[str, Any]]
    """Cross-validated average precision and F1 of every layer and C."""

    def logits(self, rows: TokenRows) -> NDArray[np.float64]:
        """Of all tokens [tokens]."""
        streams = np.asarray(rows.streams[:, rows.layers.index(self.head.layer)], dtype=np.float32)
        return np.asarray(streams @ self.head.weights + np.float32(self.head.intercept), dtype=np.float64)


def fit_locator(
    rows: TokenRows, tokens: LocatorTokens, more: LocatorTokens | None = None, *, layers: Sequence[int] | None = None
) -> FittedLocator:
    """Choose layer, C and threshold, and fit on all training tokens.

    Args:
        rows: Of all passages.
        tokens: The training responses.
        more: Others that are fitted on too, but by whose tokens nothing is chosen.
        layers: That may be chosen; all that were read if left out.
    """
    labels = np.concatenate(tokens.gold)
    fold = np.repeat([fold_of(key) for key in tokens.keys], [len(gold) for gold in tokens.gold])
    grid, best = [], (-1.0, 0, 0.0, np.zeros(0))
    for layer in layers or rows.layers:
        x, extra = _streams(rows, tokens, layer), None if more is None else _streams(rows, more, layer)
        fitters = [_fitter(x, labels, fold != k, extra, more) for k in range(FOLDS)]
        for c in C_VALUES:
            unseen = np.zeros(len(labels))
            for k, fit in enumerate(fitters):
                weights, intercept = fit(c)
                unseen[fold == k] = x[fold == k] @ weights + intercept
            reached = float(average_precision_score(labels, unseen))
            grid.append({"layer": layer, "C": c, "average_precision": reached, "f1": _best_f1(unseen, labels)})
            if reached > best[0]:
                best = reached, layer, c, unseen
    _, layer, c, unseen = best
    extra = None if more is None else _streams(rows, more, layer)
    everything = np.ones(len(labels), dtype=np.bool_)
    weights, intercept = _fitter(_streams(rows, tokens, layer), labels, everything, extra, more)(c)
    ends = np.cumsum([len(gold) for gold in tokens.gold])[:-1]
    return FittedLocator(
        ResidualHead(layer, weights, intercept),
        best_threshold(unseen, labels.astype(np.int64)),
        tuple(np.split(unseen, ends)),
        grid,
    )


def _streams(rows: TokenRows, tokens: LocatorTokens, layer: int) -> NDArray[np.float32]:
    return np.asarray(rows.streams[:, rows.layers.index(layer)][rows.at(tokens.passages)], dtype=np.float32)


def _fitter(
    x: NDArray[np.float32],
    labels: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    extra: NDArray[np.float32] | None,
    more: LocatorTokens | None,
) -> Callable[[float], tuple[NDArray[np.float32], float]]:
    """C -> weights and intercept for the stream as it is; fitted on the tokens inside and all extra ones."""
    scaler = StandardScaler().fit(x[inside])

    def fit(c: float) -> tuple[NDArray[np.float32], float]:
        scaled, y = scaler.transform(x[inside]), labels[inside]
        if extra is not None and more is not None:
            scaled, y = np.concatenate([scaled, scaler.transform(extra)]), np.concatenate([y, *more.gold])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits of the loss do not matter
            model = LogisticRegression(C=c, max_iter=100).fit(scaled, y)
        weights = model.coef_[0] / scaler.scale_
        return weights.astype(np.float32), float(model.intercept_[0] - weights @ scaler.mean_)

    return fit


def _best_f1(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    flags = scores >= best_threshold(scores, labels.astype(np.int64))
    return float(2 * (flags & labels).sum() / (flags.sum() + labels.sum()))
