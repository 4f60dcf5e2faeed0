"""ServedModel: an engine and the probe whose heads it has loaded. A request keeps the one that it began with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from probes.probe import Probe
from service.engines.base import Engine, HeadBank
from service.guard import PROBE_HEAD
from service.policy import OnError


@dataclass(frozen=True)
class GoldenSequence:
    """A prompt and response with the scores that the probe was saved with."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    scores: NDArray[np.float32]
    """One a response token, by the probe's position rule; computed in float32."""


@dataclass(frozen=True)
class ServedProbe:
    """What the service needs of a probe artifact."""

    probe: Probe
    sha256: str
    golden: tuple[GoldenSequence, ...]
    model: Mapping[str, object] = field(default_factory=dict)
    """Fingerprint of the model that it was trained on."""
    card: Mapping[str, object] = field(default_factory=dict)
    """What evaluation found, such as `auroc` and `ece`."""

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.probe.name}@{self.probe.version}"

    @property
    def bank(self) -> HeadBank:
        """The heads that the engine evaluates; the probe's is the first."""
        return HeadBank(
            names=(PROBE_HEAD,),
            neurons=self.probe.neurons,
            weights=np.asarray(self.probe.weights, dtype=np.float32)[None, :],
            suppressed=self.probe.h_neurons,
            position=self.probe.position,
        )


@dataclass(frozen=True)
class ServedModel:
    """Everything that a request is answered with."""

    engine: Engine
    active: ServedProbe
    suppress_alpha: float = 0.0
    on_error: OnError = "fail_closed"
    abstention: str = "I am not sure enough to answer that."

    @property
    def probe(self) -> Probe:
        """The active probe."""
        return self.active.probe
