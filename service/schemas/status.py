"""What the status routes answer."""

from typing import Literal

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


class Index(Sent):
    """Where to go."""

    service: str = "hguard"
    generate: str = "POST /generate"
    score: str = "POST /score"
    documentation: str = "/openapi.json"
    metrics: str = "/metrics"
    ready: str = "/readyz"
