"""Logit -> risk: a frozen, monotone map to P(hallucination). Fitting one is `offline.fitting.calibrate`'s business."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Calibration:
    """A calibration map.

    `platt`:    risk = sigmoid(slope * logit + offset)
    `isotonic`: linear interpolation between `points`, constant outside them

    Raises:
        ValueError: A map that is not monotone or leaves [0, 1].
    """

    kind: Literal["platt", "isotonic"]
    slope: float = 1.0
    offset: float = 0.0
    points: tuple[tuple[float, float], ...] = ()
    """(logit, risk), rising; `isotonic` only."""

    def __post_init__(self) -> None:
        if self.kind == "platt":
            if not (np.isfinite([self.slope, self.offset]).all() and self.slope > 0):
                raise ValueError(
                    f"a Platt map needs a positive finite slope, got {self.slope} and offset {self.offset}"
                )
            return
        if self.kind != "isotonic":
            raise ValueError(f"calibration {self.kind!r} is not one of platt, isotonic")
        values = np.asarray(self.points, dtype=np.float64)
        if values.ndim != 2 or len(values) < 2 or not np.isfinite(values).all():
            raise ValueError("an isotonic map needs at least two finite (logit, risk) points")
        rises = (np.diff(values[:, 0]) > 0).all() and (np.diff(values[:, 1]) >= 0).all()
        if not rises or values[0, 1] < 0 or values[-1, 1] > 1:
            raise ValueError("isotonic points must rise in logit, not fall in risk, and stay within [0, 1]")

    def risk(self, logit: float) -> float:
        """P(hallucination) in [0, 1] of one pooled logit; nan stays nan, so that no failure looks like a low risk."""
        return float(self.risks(np.asarray([logit]))[0])

    def risks(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """P(hallucination) of many logits, same shape."""
        values = np.asarray(logits, dtype=np.float64)
        if self.kind == "platt":
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * (self.slope * values + self.offset))), dtype=np.float64)
        x, y = np.asarray(self.points, dtype=np.float64).T
        return np.asarray(np.interp(values, x, y), dtype=np.float64)
