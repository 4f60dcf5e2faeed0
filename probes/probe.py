"""Probe: a trained hallucination detector as it is served. Frozen and pure: no files, no torch modules, no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from probes.calibration import Calibration
from probes.neurons import NeuronSet
from probes.positions import PositionRule
from probes.spans import AnswerSpan


@dataclass(frozen=True)
class Probe:
    """Selected neurons, their weights, and the map from their CETT to a risk.

    The response logit is `weights . mean(CETT over answer tokens) + intercept`. It is linear, so it equals the mean of
    the per-token logits: engines need only send one number a token.
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
    calibration: Calibration
    threshold: float
    """Risk from which a response is flagged, where a request names none."""
    locator: str = "lexical"
    """How answer tokens are found when nobody marks them: `lexical` or `response`; the calibration holds for it."""

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

    @cached_property
    def h_neurons(self) -> NDArray[np.int64]:
        """Positions in `neurons` of the H-neurons: weight > 0, the ones that alpha scales."""
        return np.flatnonzero(self.weights > 0)

    @property
    def per_mille(self) -> float:
        """H-neurons per thousand neurons of the model."""
        return 1000 * len(self.h_neurons) / self.neurons.total

    def token_logits(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Head scores of tokens [T] -> their logits [T]."""
        return np.asarray(scores, dtype=np.float64) + self.intercept

    def pooled_logit(self, scores: NDArray[np.floating], spans: Sequence[AnswerSpan]) -> float:
        """Mean logit over the tokens of these spans.

        Args:
            scores: Head scores of the response's tokens [T], aligned by `position`.
            spans: Answer spans within [0, T); not empty.

        Returns:
            The logit; nan if any score in the spans is not finite.
        """
        if not spans:
            raise ValueError("no span to pool over: that is status no_answer, not a logit")
        tokens = np.concatenate([np.arange(span.start, span.end) for span in spans])
        return float(self.token_logits(scores)[np.unique(tokens)].mean())
