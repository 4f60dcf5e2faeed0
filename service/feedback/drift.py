"""Drift: whether live risks still look and behave as they did when the probe was made. Counts only; knows no database.

    risk_psi        the last risks against the artifact's reference (probes.reference)
    risk_ece        calibration error over the last labelled responses (probes.reliability)
    risk_precision  share of hallucinations among those of them whose risk reaches the probe's threshold

Each is absent, not 0, until there are enough rows.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from probes.artifact import ProbeArtifact
from probes.reliability import ece

T = TypeVar("T")

MIN_RISKS = 200
"""Below it chance alone often gives a PSI over 0.1."""
MIN_LABELS = 100
"""Ten in each bin of the calibration error."""
MIN_FLAGGED = 20
PROBES_LIMIT = 4
"""Probes whose windows are kept: the active one, and those that come before, beside or after it."""


class LabelledRisk(NamedTuple):
    """A risk and what came out."""

    risk: float
    is_hallucinated: bool


@dataclass(frozen=True)
class DriftReport:
    """What is known of the active probe; None: too few rows, or no reference."""

    psi: float | None = None
    ece: float | None = None
    precision: float | None = None
    served: int = 0
    """Risks in the window."""
    labelled: int = 0


class Drift:
    """Sliding windows over the last risks and labelled responses of each probe."""

    def __init__(self, active: Callable[[], ProbeArtifact | None], window: int) -> None:
        """Begin with empty windows.

        Args:
            active: The artifact that is served now.
            window: Rows in each window at most.
        """
        self.active, self.window = active, window
        self._risks = OrderedDict[str, deque[float]]()
        self._labelled = OrderedDict[str, Sequence[LabelledRisk]]()

    def observe(self, probe_sha256: str, risk: float) -> None:
        """Take in a risk that was served."""
        risks = self._risks.get(probe_sha256) or deque[float](maxlen=self.window)
        risks.append(risk)
        _put(self._risks, probe_sha256, risks)

    def learn(self, probe_sha256: str, labelled: Sequence[LabelledRisk]) -> None:
        """Take in the last labelled responses of a probe, instead of those known before."""
        _put(self._labelled, probe_sha256, labelled)

    def knows(self, probe_sha256: str) -> bool:
        """Whether the labelled responses of a probe were taken in."""
        return probe_sha256 in self._labelled

    def report(self) -> DriftReport:
        """Drift of the active probe."""
        artifact = self.active()
        if artifact is None:
            return DriftReport()
        risks = self._risks.get(artifact.sha256, ())
        labelled = self._labelled.get(artifact.sha256, ())
        has_risks = artifact.reference is not None and len(risks) >= MIN_RISKS
        flagged = [row.is_hallucinated for row in labelled if row.risk >= artifact.probe.threshold]
        return DriftReport(
            psi=artifact.reference.psi(list(risks)) if artifact.reference is not None and has_risks else None,
            ece=_ece(labelled) if len(labelled) >= MIN_LABELS else None,
            precision=sum(flagged) / len(flagged) if len(flagged) >= MIN_FLAGGED else None,
            served=len(risks),
            labelled=len(labelled),
        )


class DriftCollector(Collector):
    """The report as metrics; computed when they are read."""

    def __init__(self, drift: Drift) -> None:
        self.drift = drift

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family a number that is known."""
        report = self.drift.report()
        for (name, text), value in zip(_NUMBERS.items(), (report.psi, report.ece, report.precision), strict=True):
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)
        rows = _window_rows()
        rows.add_metric(["served"], report.served)
        rows.add_metric(["labelled"], report.labelled)
        yield rows

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Every family that there may be."""
        yield from (GaugeMetricFamily(name, text) for name, text in _NUMBERS.items())
        yield _window_rows()


_NUMBERS = {
    "hguard_risk_psi": "Population stability index of served risks against the probe's reference.",
    "hguard_risk_ece": "Expected calibration error over the last labelled responses.",
    "hguard_risk_precision": "Hallucinated share of labelled responses at the probe's threshold.",
}


def _window_rows() -> GaugeMetricFamily:
    return GaugeMetricFamily("hguard_risk_window_rows", "Rows behind risk_psi and risk_ece.", labels=["kind"])


def _ece(labelled: Sequence[LabelledRisk]) -> float:
    return ece(np.array([row.risk for row in labelled]), np.array([row.is_hallucinated for row in labelled], np.int64))


def _put(windows: OrderedDict[str, T], key: str, value: T) -> None:
    windows[key] = value
    windows.move_to_end(key)
    while len(windows) > PROBES_LIMIT:
        windows.popitem(last=False)
