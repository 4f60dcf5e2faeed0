"""Probe: a trained hallucination detector as it is served. Frozen and pure: no files, no torch modules, no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from probes.domain import Domain
from probes.neurons import NeuronSet
from probes.parts import Part, measure_parts
from probes.positions import PositionRule
from probes.risk import Budget, RiskModel
from probes.spans import AnswerSpan

PROBE_HEAD = "probe"
"""Name of the read-out of the neurons, the first of every probe."""


@dataclass(frozen=True)
class ResidualHead:
    """A linear read-out of the residual stream x, the output of one decoder layer: `weights . x + intercept`."""

    layer: int
    """Counted from 0; x is read after it."""
    weights: NDArray[np.float32]
    """[D]."""
    intercept: float

    def __post_init__(self) -> None:
        if self.weights.ndim != 1 or not np.isfinite(self.weights).all() or not np.isfinite(self.intercept):
            raise ValueError("a residual head needs finite weights [D] and a finite intercept")


@dataclass(frozen=True)
class Probe:
    """Selected neurons, their weights, and the map from their CETT and the free signals to a risk.

    The response logit is `weights . mean(CETT over answer tokens) + intercept`. It is linear, so it equals the mean of
    the per-token logits: engines need only send one number a token. The risk combines it with other parts.
    """

    name: str
    version: str
    neurons: NeuronSet
    """Selected neurons, K."""
    weights: NDArray[np.float32]
    """[K], none zero."""
    norms: NDArray[np.float32]
    """norm(W_down[:, j]) of the selected neurons [K], as trained."""
    intercept: float
    position: PositionRule
    risk_model: RiskModel
    domain: Domain
    threshold: float
    """Risk from which a response is flagged, where a request names none."""
    budgets: tuple[Budget, ...] = ()
    """Thresholds for budgets of false positives, rising in the budget."""
    locator: str = "lexical"
    """How answer tokens are found when nobody marks them: `lexical` or `response`; the calibration holds for it."""
    residual: ResidualHead | None = None
    """None: nothing of the risk is read from the residual stream."""

    def __post_init__(self) -> None:
        if not (len(self.neurons),) == self.weights.shape == self.norms.shape:
            raise ValueError(f"{len(self.neurons)} neurons, weights {self.weights.shape}, norms {self.norms.shape}")
        if self.position not in get_args(PositionRule):
            raise ValueError(f"position rule {self.position!r} is not one of {', '.join(get_args(PositionRule))}")
        if not (np.isfinite(self.weights).all() and (self.weights != 0).all()):
            raise ValueError("weights of selected neurons must be finite and not zero")
        if not (np.isfinite(self.norms).all() and (self.norms > 0).all() and np.isfinite(self.intercept)):
            raise ValueError("norms must be positive and finite, the intercept finite")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold {self.threshold} is not a risk between 0 and 1")
        shares, cuts = [b.fpr for b in self.budgets], [b.threshold for b in self.budgets]
        if shares != sorted(set(shares)) or cuts != sorted(cuts, reverse=True):
            raise ValueError("a larger budget of false positives must come later and have no higher threshold")

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the read-outs, in the order of a row's scores."""
        return (PROBE_HEAD,) if self.residual is None else (PROBE_HEAD, "residual")

    @cached_property
    def h_neurons(self) -> NDArray[np.int64]:
        """Positions in `neurons` of the H-neurons: weight > 0, the ones that alpha scales."""
        return np.flatnonzero(self.weights > 0)

    @property
    def per_mille(self) -> float:
        """H-neurons per thousand neurons of the model."""
        return 1000 * len(self.h_neurons) / self.neurons.total

    def measure(
        self,
        spans: Sequence[AnswerSpan],
        scores: Sequence[Sequence[float]],
        logprobs: Sequence[float],
        entropies: Sequence[float],
    ) -> dict[Part, float]:
        """The parts over the tokens of these spans, each token once.

        Args:
            spans: Answer spans within [0, T); not empty.
            scores: Scores of `heads` of the response's tokens [T][N], aligned by `position`; nan where there is none.
            logprobs: Of the tokens [T].
            entropies: Of the distributions that predicted them [T].

        Returns:
            Every part; nan where a number of a token in the spans is not finite.
        """
        if not spans:
            raise ValueError("no span to pool over: that is status no_answer, not a risk")
        tokens = sorted({at for span in spans for at in range(span.start, span.end)})
        return measure_parts(
            [float(scores[at][0]) + self.intercept for at in tokens],
            [float(logprobs[at]) for at in tokens],
            [float(entropies[at]) for at in tokens],
            None if self.residual is None else [float(scores[at][1]) + self.residual.intercept for at in tokens],
        )
