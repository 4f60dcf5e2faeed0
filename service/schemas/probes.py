"""What the operator's probe routes take and answer."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from probes.parts import Part
from service.schemas.report import ProbeLabel
from service.schemas.role import Role
from service.schemas.strict import Sent, Strict

FolderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class ActivateRequest(Strict):
    """Which version, and what it is to do."""

    version: FolderName | None = None
    """Null: the newest."""
    mode: Role = "active"
    percent: Annotated[float, Field(gt=0, le=100)] | None = None
    """Share of the requests that a canary answers."""

    @model_validator(mode="after")
    def _check_percent(self) -> Self:
        if (self.mode == "canary") != (self.percent is not None):
            raise PydanticCustomError("percent", "percent goes with mode canary, and with no other")
        return self


class RollbackRequest(Strict):
    """What is to be undone."""

    mode: Role = "active"
    """`active`: the probe that was active before is active again; `shadow`, `canary`: it ends."""


class SwitchResponse(Sent):
    """What was switched."""

    probe: ProbeLabel
    """The probe that has the role now; the one that had it where a shadow or a canary has ended."""
    mode: Role
    percent: float | None = None
    is_kept: bool
    """A restart serves the same; false without HGUARD_PROBES_DIR, or where that folder cannot be written."""


class BudgetEntry(Sent):
    """A threshold for a budget of false positives; requests name it `fpr:` and the share."""

    fpr: float
    threshold: float
    low: float
    """95% interval of the threshold that would spend exactly the budget."""
    high: float


class ProbeEntry(Sent):
    """One probe; null where its files cannot be read."""

    name: str
    version: str
    sha256: str | None = None
    state: Literal["active", "shadow", "canary", "available", "refused"]
    """`active` answers; `shadow` is scored beside it; `canary` answers a share; `available` lies in the
    folders of probes; `refused` may not be served."""
    reason: str | None = None
    """Why it is refused; of a shadow or canary why it rests."""
    percent: float | None = None
    """Share of the requests that a canary answers."""
    position: str | None = None
    locator: str | None = None
    threshold: float | None = None
    budgets: list[BudgetEntry] | None = None
    risk_parts: dict[Part, float] | None = None
    """Weights of the parts that the risk is made of."""
    selected_neurons: int | None = None
    h_neurons: int | None = None
    per_mille: float | None = None
    model: dict[str, Any] | None = None
    """Fingerprint of the model that it was trained on."""
    auroc: float | None = None
    auroc_interval: list[float] | None = None
    """[low, high] of its bootstrap."""
    calibration_error: float | None = None
    calibration_error_interval: list[float] | None = None
    card: dict[str, Any] | None = None
    """How it was trained and all that evaluation found."""


class ProbeList(Sent):
    """All probes: active, canary, shadow, then what else lies in the folders of probes."""

    probes: list[ProbeEntry]
