"""RiskReference: how risks were distributed when the probe was made; what live risks are compared with.

    PSI = sum over bins of (q - p) ln(q / p),  p = share of the reference in a bin,  q = share of the live risks

Half a row is added to each bin, so that an empty one gives a large number and not infinity. A drift of the risks says
that the traffic or the model is another; whether the risks are still right only labels can say (`probes.reliability`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

PSEUDO_COUNT = 0.5
"""Rows added to each bin."""


@dataclass(frozen=True)
class RiskReference:
    """Counts of risks in bins that the reference rows fill about equally.

    Bins of equal width would be blind where it matters: at the natural rate most risks of a small model lie above 0.9.

    Raises:
        ValueError: Edges that are no rising risks, or counts that are none.
    """

    edges: tuple[float, ...]
    """Between the bins, rising [B - 1]; a risk on an edge belongs to the upper bin."""
    counts: tuple[int, ...]
    """Reference rows in each bin [B]."""
    rows: str
    """Which rows these were."""

    def __post_init__(self) -> None:
        if not all(0 <= edge <= 1 for edge in self.edges) or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges of a reference must be risks that rise")
        if len(self.counts) != len(self.edges) + 1 or min(self.counts) < 0 or not sum(self.counts):
            raise ValueError("a reference needs one count a bin, none negative and not all 0")

    def count(self, risks: ArrayLike) -> NDArray[np.int64]:
        """How many risks lie in each bin [B]."""
        values = np.asarray(risks, dtype=np.float64)
        return np.bincount(np.searchsorted(self.edges, values, side="right"), minlength=len(self.counts))

    def psi(self, risks: ArrayLike) -> float:
        """Population stability index of these risks, at least one, against the reference."""
        p, q = _shares(np.asarray(self.counts)), _shares(self.count(risks))
        return float(((q - p) * np.log(q / p)).sum())


def make_reference(risks: NDArray[np.float64], rows: str, *, bins: int = 10) -> RiskReference:
    """The reference of some risks; fewer bins where many risks are the same (an isotonic map has plateaus).

    Args:
        risks: [R].
        rows: Which rows they are of, for people.
        bins: At most.
    """
    edges = np.unique(np.quantile(risks, np.arange(1, bins) / bins, method="higher"))
    kept = tuple(float(edge) for edge in edges if edge > risks.min())
    counts = np.bincount(np.searchsorted(kept, risks, side="right"), minlength=len(kept) + 1)
    return RiskReference(kept, tuple(map(int, counts)), rows)


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    padded = counts + PSEUDO_COUNT
    return np.asarray(padded / padded.sum(), dtype=np.float64)
