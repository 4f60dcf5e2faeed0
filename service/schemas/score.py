"""POST /score: request and response."""

from typing import Any

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from service.schemas.generate import Timing, Usage
from service.schemas.options import GuardOptions
from service.schemas.prompt import ONE_PROMPT, Prompted
from service.schemas.report import GuardReport
from service.schemas.strict import Sent

A_RESPONSE: dict[str, Any] = {
    "anyOf": [
        {"required": ["response"], "properties": {"response": {"type": "string"}}},
        {"required": ["response_token_ids"], "properties": {"response_token_ids": {"type": "array"}}},
    ]
}
"""What `_need_a_response` asks, for the OpenAPI document."""


class ScoreRequest(Prompted):
    """Judge a response that exists already."""

    model_config = ConfigDict(json_schema_extra=ONE_PROMPT | A_RESPONSE)

    response: str | None = Field(None, min_length=1, description="the response as text")
    response_token_ids: list[int] | None = Field(
        None,
        min_length=1,
        max_length=131072,
        description="its exact tokens; beside response, their text must begin with it",
    )
    guard: GuardOptions = GuardOptions()

    @field_validator("guard")
    @classmethod
    def _refuse_generation_policies(cls, guard: GuardOptions) -> GuardOptions:
        if guard.policy not in ("annotate", "flag"):
            raise PydanticCustomError("not_supported", "/score has no text to withhold: use policy annotate or flag")
        return guard

    @model_validator(mode="after")
    def _need_a_response(self) -> "ScoreRequest":
        if self.response is None and self.response_token_ids is None:
            raise PydanticCustomError("response", "give response, response_token_ids or both")
        return self


class ScoreResponse(Sent):
    """The guard object; its offsets count code points of `text`."""

    id: str
    model: str
    created: int
    usage: Usage
    risk: float | None
    text: str
    guard: GuardReport
    timing: Timing
