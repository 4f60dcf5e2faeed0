"""ServedModel: an engine and a probe whose heads it has loaded. A request keeps the one that it began with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from probes.artifact import ProbeArtifact
from probes.neurons import NeuronSet
from probes.positions import PositionRule
from probes.probe import Probe
from service.admission.auth import NO_LIMITS, Limits
from service.engines.base import Engine, HeadBank, Heads, ResidualHeads, RowEvidence
from service.guard.policy import OnError
from service.guard.response import ModelResponse
from service.schemas.role import Role


@dataclass(frozen=True)
class ServedModel:
    """Everything that a request is answered with."""

    engine: Engine
    artifact: ProbeArtifact
    heads: Heads
    """The probe's, in the engine; a shadow's may follow them."""
    suppress_alpha: float = 0.0
    on_error: OnError = "fail_closed"
    abstention: str = "I am not sure enough to answer that."
    hold_tokens: int = 0
    limits: Limits = NO_LIMITS
    """Of the key that the request was sent with."""
    role: Role = "active"
    shadow: ProbeArtifact | None = None
    """Scored on the same passes."""
    score_timeout_seconds: float = 10.0
    """Within which a response must be judged."""

    @property
    def probe(self) -> Probe:
        """The probe that answers."""
        return self.artifact.probe

    def own_row(self, row: RowEvidence | None) -> RowEvidence | None:
        """The row as if this probe's heads were alone in the engine."""
        return _take_rows((row,), self.heads.bank, self.probe, first=0)[0]

    def own_rows(self, response: ModelResponse) -> ModelResponse:
        """The response as if they were."""
        return replace(response, rows=_take_rows(response.rows, self.heads.bank, self.probe, first=0))

    def shadow_rows(self, response: ModelResponse, shadow: Probe) -> ModelResponse:
        """The response as if the shadow's heads were."""
        first = len(self.probe.heads)
        return replace(response, rows=_take_rows(response.rows, self.heads.bank, shadow, first=first))


def probe_label(probe: Probe) -> str:
    """Name and version as clients may give them."""
    return f"{probe.name}@{probe.version}"


def head_bank(probe: Probe, shadow: Probe | None = None) -> HeadBank:
    """The heads that the engine evaluates: the probe's, then its shadow's, whose H-neurons alpha leaves alone.

    Raises:
        ValueError: The two cannot be read in one pass.
    """
    probes = (probe,) if shadow is None else (probe, shadow)
    neurons = NeuronSet.from_flat(probe.neurons.widths, np.unique(np.concatenate([p.neurons.flat for p in probes])))
    names = probe.heads + (tuple(f"shadow {name}" for name in shadow.heads) if shadow else ())
    weights = np.zeros((len(names), len(neurons)), dtype=np.float32)
    residuals = [p.residual for p in probes if p.residual is not None]
    layers = {residual.layer for residual in residuals}
    if len(layers) > 1:
        raise ValueError(
            f"the probe reads the residual stream after layer {probe.residual and probe.residual.layer}, its shadow "
            f"after layer {shadow and shadow.residual and shadow.residual.layer}, and one pass reads one layer: serve "
            "it as a canary"
        )
    stream = np.zeros((len(names), len(residuals[0].weights) if residuals else 0), dtype=np.float32)
    first = 0
    for one in probes:
        weights[first, _columns(neurons, one)] = one.weights
        if one.residual is not None:
            stream[first + 1] = one.residual.weights
        first += len(one.heads)
    suppressed = _columns(neurons, probe)[probe.h_neurons]
    position: PositionRule = "own" if any(one.position == "own" for one in probes) else "predicting"
    residual = ResidualHeads(layers.pop(), stream) if residuals else None
    return HeadBank(names, neurons, weights, suppressed, position, residual)


def _take_rows(
    rows: Sequence[RowEvidence | None], bank: HeadBank, probe: Probe, *, first: int
) -> tuple[RowEvidence | None, ...]:
    if len(bank.names) == len(probe.heads):
        return tuple(rows)
    columns, last = _columns(bank.neurons, probe), first + len(probe.heads)
    return tuple(
        row
        and replace(row, scores=row.scores[first:last], neurons=None if row.neurons is None else row.neurons[columns])
        for row in rows
    )


def _columns(neurons: NeuronSet, probe: Probe) -> NDArray[np.int64]:
    """Where the probe's neurons stand in a set that holds them [K]."""
    return np.asarray(np.searchsorted(neurons.flat, probe.neurons.flat), dtype=np.int64)
