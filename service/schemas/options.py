"""Options of a request: how to sample, and what the guard is to do. Conflicts are refused, never resolved silently."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from service.guard.judge import Locator
from service.guard.policy import OnError, Policy
from service.schemas.strict import Strict

StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]

BUDGET = r"^fpr:0?\.[0-9]{1,6}$"
"""How a request names a budget of false positives, such as `fpr:0.05`."""


def _check_threshold(value: object) -> object:
    """One message for both forms; a union would answer with one for each."""
    if isinstance(value, str):
        is_valid = re.fullmatch(BUDGET, value) is not None
    else:
        is_valid = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1
    if not is_valid:
        raise PydanticCustomError("threshold", 'give a risk between 0 and 1, or a budget such as "fpr:0.05"')
    return value


Threshold = Annotated[
    Annotated[float, Field(gt=0, lt=1)] | Annotated[str, StringConstraints(pattern=BUDGET)],
    BeforeValidator(_check_threshold),
]


class SamplingOptions(Strict):
    """How tokens are chosen."""

    max_tokens: int | None = Field(
        128, ge=1, le=2**31 - 1, description="tokens of the response at most; null: as many as the model holds"
    )
    temperature: float = Field(0.0, ge=0, le=2, description="0 = greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, le=2**31 - 1, description="0 = the whole vocabulary")
    seed: int | None = Field(None, ge=0, lt=2**63, description="choice i is drawn with seed + i")
    stop: list[StopString] = Field([], max_length=8, description="the text is cut before the first of these")
    n: int = Field(1, ge=1, le=8, description="independent choices")


class GuardOptions(Strict):
    """What the guard is to do with a response."""

    probe: str = Field("default", min_length=1, max_length=256, description="default, name or name@version")
    policy: Policy = "annotate"
    threshold: Threshold | None = Field(
        None,
        description="risk from which to act; null: the probe's own; `fpr:0.05`: the one that flags at most 5% of "
        "faithful responses, where the probe has it",
    )
    alpha: float = Field(1.0, ge=0, le=3, description="multiplier on the H-neurons' z; 1 = off; experimental")
    locator: Locator = Field(
        "default", description="which tokens are judged; default: what the probe was calibrated with"
    )
    return_tokens: bool = False
    return_spans: bool = True
    explain: bool = Field(default=False, description="list the neurons that say most")
    on_error: OnError | None = Field(None, description="null: the server's setting")

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> "GuardOptions":
        if self.policy == "off" and self.explain:
            raise PydanticCustomError("conflict", "explain needs scores: use another policy than off")
        if self.policy == "suppress" and self.alpha > 1:
            raise PydanticCustomError("conflict", "policy suppress scales down: alpha must not be over 1")
        return self
