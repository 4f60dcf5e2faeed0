"""RiskModel: parts of a response -> P(hallucination); and the thresholds that keep to a budget of false positives.

    logit = sum of weight * part + intercept;  risk = calibration(logit)

Frozen and small; fitting one is `offline.fitting.combination`'s business.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from probes.calibration import Calibration
from probes.parts import SIGNS, Part


@dataclass(frozen=True)
class RiskModel:
    """A logistic combination of parts, in raw units, and its calibration.

    Monotone: the risk falls with no part that speaks for a hallucination and rises with none that speaks against one.

    Raises:
        ValueError: An unknown part, a weight against the part's sign, or numbers that are not finite.
    """

    weights: Mapping[Part, float]
    """Of the parts that are used; none zero."""
    intercept: float
    calibration: Calibration

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("a risk needs at least one part")
        for part, weight in self.weights.items():
            if part not in SIGNS:
                raise ValueError(f"part {part!r} is not one of {', '.join(SIGNS)}")
            if not math.isfinite(weight) or weight == 0 or weight * SIGNS[part] < 0:
                raise ValueError(f"weight {weight} of {part} must be finite, not zero, and of the part's sign")
        if not math.isfinite(self.intercept):
            raise ValueError(f"intercept {self.intercept} of the risk is not finite")

    def logit(self, parts: Mapping[Part, float]) -> float:
        """The combination before calibration; nan where a part that is used is missing or not finite."""
        logit = self.intercept
        for part, weight in self.weights.items():
            logit += weight * parts.get(part, math.nan)
        return logit if math.isfinite(logit) else math.nan

    def risk(self, parts: Mapping[Part, float]) -> float:
        """P(hallucination) in [0, 1]; nan where `logit` is, so that no failure looks like a low risk."""
        return self.calibration.risk(self.logit(parts))


@dataclass(frozen=True)
class Budget:
    """The risk from which to flag so that at most a share of the faithful responses is flagged.

    Raises:
        ValueError: No share, or thresholds that are not risks in order.
    """

    fpr: float
    """Share of faithful responses that may be flagged."""
    threshold: float
    low: float
    """95% interval of the threshold that would spend exactly the budget; 0 and 1 where the rows do not bound it."""
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.fpr < 1:
            raise ValueError(f"budget {self.fpr} is not a share between 0 and 1")
        if not (0 < self.threshold < 1 and 0 <= self.low <= self.threshold <= self.high <= 1):
            raise ValueError(f"budget {self.fpr}: {self.low} <= {self.threshold} <= {self.high} are not risks in order")
