"""Checks: options, requests and answers of the routes that judge another program's answer and say whether to block."""

from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from service.guard.policy import Policy
from service.schemas.chat_text import ChatMessage
from service.schemas.options import GuardOptions
from service.schemas.report import GuardReport
from service.schemas.score import ScoreRequest
from service.schemas.strict import Sent, Strict


class CheckOptions(GuardOptions):
    """What the guard is to do; a check blocks unless it is told to look on."""

    policy: Policy = Field("block", description="block, flag or annotate")

    @field_validator("policy")
    @classmethod
    def _refuse_other_policies(cls, policy: Policy) -> Policy:
        if policy not in ("block", "flag", "annotate"):
            raise PydanticCustomError("not_supported", "a check can block, flag or annotate")
        return policy


class AnswerCheck(ScoreRequest):
    """A request of `/score` whose policy may block: the caller withholds the text."""

    guard: GuardOptions = CheckOptions()

    @field_validator("guard")
    @classmethod
    def _refuse_generation_policies(cls, guard: GuardOptions) -> GuardOptions:
        return guard


class RailOptions(Strict):
    """NeMo's options that mean something here."""

    rail_types: list[Literal["output"]] | None = Field(None, min_length=1, description="answers are judged, not inputs")


class CheckRequest(Strict):
    """`POST /v1/checks` of NeMo Guardrails: a conversation that ends with the answer to judge."""

    messages: list[ChatMessage] = Field(min_length=2, max_length=257, description="user ..., then the assistant's")
    model: str | None = Field(None, max_length=512, description="null or the served model, which judges")
    guardrails: RailOptions = RailOptions()
    guard: CheckOptions = CheckOptions()
    timeout_s: float = Field(60.0, gt=0, le=3600, description="seconds after which the request is given up")

    @field_validator("messages")
    @classmethod
    def _need_an_answer(cls, messages: list[ChatMessage]) -> list[ChatMessage]:
        """Without one, NeMo would run input rails; there are none here, and that is no pass."""
        *asked, answer = messages
        if answer.role != "assistant" or not answer.content:
            raise PydanticCustomError("answer", "the last message must be the assistant's: it is the answer to judge")
        if not asked or asked[-1].role != "user":
            raise PydanticCustomError("answer", "the message before the answer must be the user's")
        return messages


class CheckResponse(Sent):
    """NeMo's three fields, and what they rest on."""

    status: Literal["passed", "blocked"]
    content: str
    """The answer, or the configured abstention in its place."""
    rail: str | None
    """Who blocked."""
    id: str
    model: str
    """That judged."""
    risk: float | None
    guard: GuardReport
