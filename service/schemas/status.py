"""What the status routes answer."""

from typing import Any, Literal

from probes.parts import Part
from service.schemas.strict import Sent


class Live(Sent):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(Sent):
    """Whether requests are taken."""

    status: Literal["ready", "not_ready", "draining"]
    reasons: list[str]
    """What is missing; empty when ready."""


class Version(Sent):
    """What runs."""

    name: str = "hguard"
    version: str
    engine: str
    """`fake` has no model: its text and its risks are made up."""
    model: str
    dtype: str | None
    device: str | None
    python: str
    torch: str
    transformers: str


class BudgetEntry(Sent):
    """A threshold for a budget of false positives; requests name it `fpr:` and the share."""

    fpr: float
    threshold: float
    low: float
    """95% interval of the threshold that would spend exactly the budget."""
    high: float


class ProbeEntry(Sent):
    """One probe."""

    name: str
    version: str
    sha256: str
    state: Literal["active", "available"]
    """`active` is served; `available` lies in the folders of probes."""
    position: str
    locator: str
    threshold: float
    budgets: list[BudgetEntry]
    risk_parts: dict[Part, float]
    """Weights of the parts that the risk is made of."""
    selected_neurons: int
    h_neurons: int
    per_mille: float
    model: dict[str, Any]
    """Fingerprint of the model that it was trained on."""
    auroc: float | None
    auroc_interval: list[float] | None
    """[low, high] of its bootstrap."""
    calibration_error: float | None
    calibration_error_interval: list[float] | None
    card: dict[str, Any]
    """How it was trained and all that evaluation found."""


class ProbeList(Sent):
    """All probes."""

    probes: list[ProbeEntry]


class Index(Sent):
    """Where to go."""

    service: str = "hguard"
    generate: str = "POST /generate"
    score: str = "POST /score"
    documentation: str = "/docs"
    metrics: str = "/metrics"
    ready: str = "/readyz"
