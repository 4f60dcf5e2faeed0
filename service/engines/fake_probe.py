"""The probe that goes with the fake engine: made up, with a golden trace computed from the fake's own formula."""

import numpy as np

from probes.artifact import GoldenTrace, ProbeArtifact
from probes.calibration import Calibration
from probes.domain import Domain, PartRange
from probes.neurons import NeuronSet
from probes.positions import PositionRule, first_row
from probes.probe import Probe, ResidualHead
from probes.reference import RiskReference
from probes.risk import Budget, RiskModel
from service.engines.fake import FAKE_MODEL, fake_cett, fake_stream


def fake_artifact(*, position: PositionRule = "own", locator: str = "lexical", threshold: float = 0.5) -> ProbeArtifact:
    """Four neurons of a model that does not exist."""
    neurons = NeuronSet.from_flat(FAKE_MODEL.widths, np.asarray([1, 6, 9, 12]))
    probe = Probe(
        name="fake",
        version="0",
        neurons=neurons,
        weights=np.asarray([1.5, -0.5, 2.0, -1.0], dtype=np.float32),
        norms=np.ones(len(neurons), dtype=np.float32),
        intercept=-1.0,
        position=position,
        risk_model=RiskModel(
            {"cett": 1.0, "residual": 0.5, "min_logprob": -0.5},
            intercept=-0.25,
            calibration=Calibration("platt", slope=1.5, offset=0.1),
        ),
        domain=Domain({"cett": PartRange(-3.0, 0.0, 3.0), "length": PartRange(0.0, 6.0, 40.0)}, cutoff=2.0),
        threshold=threshold,
        budgets=(Budget(0.05, threshold=0.9, low=0.8, high=1.0), Budget(0.1, threshold=0.8, low=0.6, high=0.9)),
        locator=locator,
        residual=ResidualHead(1, np.linspace(-0.4, 0.6, FAKE_MODEL.hidden_size, dtype=np.float32), intercept=0.2),
    )
    return ProbeArtifact(
        probe,
        model=FAKE_MODEL,
        golden=_golden(probe),
        reference=RiskReference((0.2, 0.4, 0.6, 0.8), (20, 30, 25, 15, 10), "made up"),
        sha256="0" * 64,
    )


def _golden(probe: Probe) -> GoldenTrace:
    prompt, response = (10, 20, 30), (40, 50, 60, 70)
    fed = (prompt[-1], *response)
    start = len(prompt) - 1
    rows = range(first_row(probe.position), first_row(probe.position) + len(response))
    assert probe.residual is not None
    scores = [
        (
            probe.weights @ fake_cett(fed[row], start + row, len(probe.neurons)),
            probe.residual.weights @ fake_stream(fed[row], start + row),
        )
        for row in rows
    ]
    return GoldenTrace((prompt,), (response,), (np.asarray(scores, dtype=np.float32),))
