"""ServedModel: an engine and a probe whose heads it has loaded. A request keeps the one that it began with."""

from dataclasses import dataclass

import numpy as np

from probes.artifact import ProbeArtifact
from probes.probe import Probe
from service.auth import NO_LIMITS, Limits
from service.engines.base import Engine, HeadBank, Heads, ResidualHeads
from service.policy import OnError


@dataclass(frozen=True)
class ServedModel:
    """Everything that a request is answered with."""

    engine: Engine
    artifact: ProbeArtifact
    heads: Heads
    """The probe's, in the engine."""
    suppress_alpha: float = 0.0
    on_error: OnError = "fail_closed"
    abstention: str = "I am not sure enough to answer that."
    hold_tokens: int = 0
    limits: Limits = NO_LIMITS
    """Of the key that the request was sent with."""
    score_timeout_seconds: float = 10.0
    """Within which a response must be judged."""

    @property
    def probe(self) -> Probe:
        """The active probe."""
        return self.artifact.probe


def probe_label(probe: Probe) -> str:
    """Name and version as clients may give them."""
    return f"{probe.name}@{probe.version}"


def head_bank(probe: Probe) -> HeadBank:
    """The heads that the engine evaluates; the probe's is the first."""
    weights = np.zeros((len(probe.heads), len(probe.neurons)), dtype=np.float32)
    weights[0] = probe.weights
    residual = None
    if probe.residual is not None:
        stream = np.zeros((len(probe.heads), len(probe.residual.weights)), dtype=np.float32)
        stream[1] = probe.residual.weights
        residual = ResidualHeads(probe.residual.layer, stream)
    return HeadBank(probe.heads, probe.neurons, weights, probe.h_neurons, probe.position, residual)
