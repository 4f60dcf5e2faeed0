"""What /v1/chat/completions, /v1/completions and /v1/models answer: OpenAI's shapes, the guard object beside."""

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from service.schemas.generate import Usage
from service.schemas.report import GuardReport
from service.schemas.strict import Sent

FinishReason = Literal["stop", "length", "content_filter", "cancelled", "error"]
"""`content_filter`: the guard withheld, replaced or cut the answer; `guard.action` says which. The last two are not
OpenAI's words."""


class LogprobEntry(Sent):
    """A token with its log-probability and its risk."""

    token: str
    """Empty while a character is incomplete: the token that completes it carries it."""
    logprob: float | None
    bytes: list[int]
    """UTF-8 of `token`."""
    top_logprobs: tuple[()] = ()
    """The engines know of the chosen tokens only."""
    risk: float | None


class ChatLogprobs(Sent):
    """All tokens of an answer, or those of a chunk."""

    content: list[LogprobEntry]


class AnswerMessage(Sent):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(Sent):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    guard: GuardReport


class ChatCompletion(Sent):
    """All answers; `guard` is choice 0's."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    guard: GuardReport


class ProviderFields(Sent):
    """What gateways pass on of a delta that has no text."""

    guard: GuardReport


class Delta(Sent):
    """What a chunk adds to the message; a field that adds nothing is left out."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    provider_specific_fields: ProviderFields | None = None

    @model_serializer(mode="wrap")
    def _leave_out_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class ChunkChoice(Sent):
    """One answer's part of a chunk."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    guard: GuardReport | None = None
    """In the finish chunk."""


class ChatChunk(Sent):
    """One `data:` of a stream; `choices` is never empty."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    """In the last finish chunk, where it was asked for."""
    guard: GuardReport | None = None
    """In the finish chunk of choice 0."""


class TextLogprobs(Sent):
    """The tokens of a text, in columns."""

    tokens: list[str]
    token_logprobs: list[float | None]
    token_risks: list[float | None]
    text_offset: list[int]
    top_logprobs: None = None


class TextChoice(Sent):
    """One text, or in a stream a part of it: then all but the last part have neither reason nor guard."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None = None
    guard: GuardReport | None = None


class TextCompletion(Sent):
    """All texts, or one `data:` of a stream; `guard` is choice 0's."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None
    guard: GuardReport | None = None


class ModelEntry(Sent):
    """The served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "hguard"
    max_model_len: int
    """Tokens of prompt and answer together at most."""


class ModelList(Sent):
    """All models: one."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]
