"""Prompt: what the model is asked, as one text or as a conversation."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from service.schemas.strict import Strict

RequestId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]


class Message(Strict):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str


ONE_PROMPT: dict[str, Any] = {
    "oneOf": [
        {"required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
        {"required": ["messages"], "properties": {"messages": {"type": "array"}, "raw": {"const": False}}},
    ]
}
"""What `_need_one_prompt` asks, for the OpenAPI document."""


class Prompted(Strict):
    """The fields that every request with a prompt has."""

    model_config = ConfigDict(json_schema_extra=ONE_PROMPT)

    prompt: str | None = Field(None, min_length=1, description="one user turn, or with raw the text itself")
    messages: list[Message] | None = Field(None, min_length=1, max_length=256, description="the last one is the user's")
    raw: bool = Field(default=False, description="no chat template: the prompt is the text itself")
    model: str | None = Field(None, max_length=512, description="null or the served model")
    timeout_s: float = Field(60.0, gt=0, le=3600, description="seconds after which the request is given up")
    request_id: RequestId | None = Field(None, description="null: the x-request-id header, else a new one")

    @model_validator(mode="after")
    def _need_one_prompt(self) -> "Prompted":
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("prompt", "give exactly one of prompt and messages")
        if self.messages is not None and self.raw:
            raise PydanticCustomError("conflict", "raw goes with prompt: messages need the chat template")
        if self.messages is not None and self.messages[-1].role != "user":
            raise PydanticCustomError("conflict", "the last message must be the user's")
        return self

    @property
    def question(self) -> str:
        """What was asked last, for the answer-token locator."""
        return self.prompt if self.messages is None else self.messages[-1].content  # type: ignore[return-value]
