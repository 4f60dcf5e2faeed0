"""Domain: how far the parts of a response lie from those of the training rows. Says nothing of the risk.

    distance = max over parts of |part - median| / (distance of the median from the quantile on that side)

Each side has its own scale, because lengths and log-probabilities have one long tail.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from probes.parts import SIGNS, Part


class PartRange(NamedTuple):
    """Quantiles of a part over the training rows."""

    low: float
    """2.5%."""
    median: float
    high: float
    """97.5%."""


@dataclass(frozen=True)
class Domain:
    """The middle of the training rows, and how far out counts as outside.

    Raises:
        ValueError: An unknown part, or quantiles that are not finite and in order.
    """

    ranges: Mapping[Part, PartRange]
    cutoff: float
    """Distance over which a response is out of domain: the 99% quantile of the training rows' distances."""

    def __post_init__(self) -> None:
        if not self.ranges:
            raise ValueError("a domain needs at least one part")
        for part, found in self.ranges.items():
            if part not in SIGNS:
                raise ValueError(f"part {part!r} is not one of {', '.join(SIGNS)}")
            if not (all(map(math.isfinite, found)) and found.low < found.median < found.high):
                raise ValueError(f"the range {tuple(found)} of {part} must be finite and rise")
        if not (math.isfinite(self.cutoff) and self.cutoff > 0):
            raise ValueError(f"cutoff {self.cutoff} of the domain must be positive and finite")

    def distance(self, parts: Mapping[Part, float]) -> float:
        """Distance of a response; nan where a part is missing or not finite."""
        farthest = 0.0
        for part, (low, median, high) in self.ranges.items():
            value = parts.get(part, math.nan)
            if not math.isfinite(value):
                return math.nan
            scale = high - median if value > median else median - low
            farthest = max(farthest, abs(value - median) / scale)
        return farthest

    def is_outside(self, parts: Mapping[Part, float]) -> bool | None:
        """Whether a response lies farther out than the cutoff; None where a part is missing or not finite."""
        distance = self.distance(parts)
        return None if math.isnan(distance) else distance > self.cutoff
