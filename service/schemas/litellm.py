"""LiteLLM's generic guardrail API: what its gateway sends before and after a call, and what it reads of the answer."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.check import CheckOptions
from service.schemas.report import GuardReport
from service.schemas.strict import Sent


class GuardrailOptions(CheckOptions):
    """Guard options of the gateway's configuration."""

    timeout_s: float = Field(
        20.0,
        gt=0,
        le=3600,
        description="seconds for a verdict; over it the answer is unscored; less than the gateway's",
    )


class GuardrailRequest(BaseModel):
    """The fields that we use; the gateway's releases add others, so unknown ones are let by here and only here."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    input_type: Literal["request", "response"] = Field(description="before or after the model's call")
    litellm_call_id: str | None = Field(None, max_length=256, description="the same on both sides of a call")
    texts: list[str] | None = Field(None, max_length=512, description="of the prompt, or one an answer")
    structured_messages: list[dict[str, Any]] | None = Field(None, description="the conversation; before the call only")
    images: list[str] | None = Field(None, description="before the call: the prompt cannot be scored")
    additional_provider_specific_params: GuardrailOptions | None = Field(
        None, description="from the gateway's configuration: the guard options"
    )


class GuardrailAnswer(Sent):
    """The gateway reads action and blocked_reason; the rest is for people."""

    action: Literal["NONE", "BLOCKED"]
    blocked_reason: str | None = None
    id: str | None = None
    """Under which the answers can be labelled, by their place as choices; null where none was judged."""
    model: str | None = None
    """That judged, where one did."""
    risk: float | None = None
    """The highest of the answers'; null where none was scored."""
    unscored: tuple[str, ...] = ()
    """Why answers have no score although they have text; a text without a claim is not meant."""
    guards: tuple[GuardReport | None, ...] = ()
    """One a text; null where it was not judged."""
