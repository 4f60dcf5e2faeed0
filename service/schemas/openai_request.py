"""POST /v1/chat/completions and /v1/completions: requests as OpenAI's clients send them.

A null is a field that was left out. What this server cannot do is refused in words; the few fields that only matter to
OpenAI's own books change no answer and are taken.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from service.schemas.options import GuardOptions, StopString
from service.schemas.prompt import RequestId
from service.schemas.strict import Strict


def _only(*neutral: Any) -> Any:
    """A field whose other values ask for something that this server does not do; absent or null is always neutral."""
    description = "not supported: takes only what changes nothing"
    return Field(None, description=description, json_schema_extra={"enum": [None, *neutral]})


class _Refusing(Strict):
    """Knows which of its fields are `_only`."""

    @field_validator("*", mode="after")
    @classmethod
    def _refuse_unsupported(cls, value: object, info: ValidationInfo) -> object:
        extra = cls.model_fields[info.field_name or ""].json_schema_extra
        neutral = extra.get("enum") if isinstance(extra, dict) else None
        if isinstance(neutral, list) and value not in neutral:
            message = "not supported by this server: leave it out (it takes {neutral})"
            raise PydanticCustomError("not_supported", message, {"neutral": json.dumps(neutral)[1:-1]})
        return value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Stop = Annotated[
    list[StopString],
    Field(max_length=8),
    BeforeValidator(_as_list),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": 256},
                {"type": "array", "maxItems": 8, "items": {"type": "string", "minLength": 1, "maxLength": 256}},
            ]
        }
    ),
]


def _join_parts(value: object) -> object:
    """The text of a message that was sent in parts; what is not text is refused."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise PydanticCustomError("not_supported", 'only parts of type "text" are supported: the model reads text')
        texts.append(text)
    return "".join(texts)


_TEXT_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
}
Content = Annotated[
    str,
    BeforeValidator(_join_parts),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART}]}),
]


class ChatMessage(_Refusing):
    """One turn; `developer` is the newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Any = _only()
    tool_calls: Any = _only([])
    function_call: Any = _only()
    refusal: Any = _only()
    audio: Any = _only()
    annotations: Any = _only([])


class StreamOptions(_Refusing):
    """What a stream carries beside its text."""

    include_usage: bool | None = Field(None, description="the last finish chunk carries `usage`")
    include_obfuscation: Any = _only(False)
    continuous_usage_stats: Any = _only(False)


class OpenAIRequest(_Refusing):
    """The fields that both routes have; the defaults are OpenAI's."""

    model: str | None = Field(None, max_length=512, description="the served model, as GET /v1/models lists it")
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(None, ge=0, le=2, description="null: 1")
    top_p: float | None = Field(None, gt=0, le=1, description="null: 1")
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1, description="0, -1 or null: the whole vocabulary")
    n: int | None = Field(None, ge=1, le=8, description="null: 1")
    seed: int | None = Field(None, ge=0, lt=2**63, description="choice i is drawn with seed + i")
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    guard: GuardOptions | None = Field(None, description="through `extra_body`; null: the guard's defaults")
    stream_mode: Literal["immediate", "hold"] | None = Field(
        None, description="null: hold where the policy may withhold the text, else immediate"
    )
    timeout_s: float | None = Field(None, gt=0, le=3600, description="null: 60")
    request_id: RequestId | None = None

    user: str | None = Field(None, description="taken, not used")

    frequency_penalty: Any = _only(0)
    presence_penalty: Any = _only(0)
    logit_bias: Any = _only({})

    @model_validator(mode="after")
    def _need_a_stream(self) -> "OpenAIRequest":
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("conflict", 'stream_options go with "stream": true')
        return self

    @property
    def includes_usage(self) -> bool:
        """Whether the stream ends with the token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatRequest(OpenAIRequest):
    """A conversation to go on with."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=256, description="the last one is the user's")
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1, description="the newer name of max_tokens")
    logprobs: bool | None = Field(None, description="each token with its log-probability and its risk")

    metadata: dict[str, Any] | None = Field(None, description="taken, not used")
    safety_identifier: str | None = Field(None, description="taken, not used")
    prompt_cache_key: str | None = Field(None, description="taken, not used")
    service_tier: Any = _only("auto", "default")
    store: Any = _only(False)

    top_logprobs: Any = _only(0)
    response_format: Any = _only({"type": "text"})
    tools: Any = _only([])
    tool_choice: Any = _only("none", "auto")
    parallel_tool_calls: Any = _only(True, False)
    functions: Any = _only([])
    function_call: Any = _only("none", "auto")
    modalities: Any = _only(["text"])
    audio: Any = _only()
    prediction: Any = _only()
    reasoning_effort: Any = _only("none")
    verbosity: Any = _only()
    web_search_options: Any = _only()

    @model_validator(mode="after")
    def _agree_on_the_length(self) -> "ChatRequest":
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise PydanticCustomError("conflict", "max_tokens and max_completion_tokens are two names of one limit")
        return self


def _one_prompt(value: object) -> object:
    if isinstance(value, list):
        if len(value) != 1 or not isinstance(value[0], str):
            raise PydanticCustomError(
                "not_supported", "send one prompt, as text: lists and token ids are not supported"
            )
        return value[0]
    return value


class CompletionRequest(OpenAIRequest):
    """A text to go on with, as it is: no chat template."""

    prompt: Annotated[
        str,
        Field(min_length=1),
        BeforeValidator(_one_prompt),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "string", "minLength": 1}},
                ]
            }
        ),
    ]
    logprobs: int | None = Field(
        None,
        description="0: each chosen token with its log-probability and its risk; no others are known",
        json_schema_extra={"enum": [None, 0]},
    )
    best_of: Any = _only(1)
    echo: Any = _only(False)
    suffix: Any = _only("")
