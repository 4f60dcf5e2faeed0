"""Measures two sides of a claim in one run, turn about, so that whatever else the machine does falls on both.

Knows nothing of what is measured.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median, quantiles


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some measurements."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Of at least two values."""
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(low, median(values), high)

    def text(self, digits: int = 3) -> str:
        """`median [quartiles]`."""
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Comparison:
    """Both sides, and the ratio of each round's pair."""

    first: Spread
    second: Spread
    ratio: Spread
    """first / second, round by round: what drifts slowly cancels."""


async def compare(
    first: Callable[[], Awaitable[float]], second: Callable[[], Awaitable[float]], *, rounds: int
) -> Comparison:
    """Run both sides once to warm up, then `rounds` times in turn; which goes first alternates.

    Args:
        first: Runs once and returns its measurement.
        second: The same of the other side.
        rounds: At least 2.
    """
    await first()
    await second()
    pairs: list[tuple[float, float]] = []
    for at in range(rounds):
        if at % 2:
            late = await second()
            pairs.append((await first(), late))
        else:
            early = await first()
            pairs.append((early, await second()))
    return Comparison(
        first=Spread.of([a for a, _ in pairs]),
        second=Spread.of([b for _, b in pairs]),
        ratio=Spread.of([a / b for a, b in pairs]),
    )
