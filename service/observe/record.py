"""Record: what one request was and what became of it, for its log line, the audit log and its span.

Whoever knows something notes it on the current record; `CountRequests` hands the record to the sinks when the request
has ended. The record follows the request through its tasks and threads as a context variable, so that nothing has to
be passed along. It holds texts, so only the audit log may write all of it.
"""

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from service.choices.plan import GuardPlan
    from service.guard.judgement import Judgement
    from service.guard.response import ModelResponse
    from service.guard.transcript import Transcript
    from service.probe_roles.served import ServedModel
    from service.schemas.generate import GenerateRequest
    from service.schemas.report import GuardReport
    from service.schemas.score import ScoreRequest

CLIENT_LEFT = 499
"""Counted for a client that left; nobody reads it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was found valid."""

    body: "GenerateRequest | ScoreRequest"
    served: "ServedModel"
    guard: "GuardPlan"
    n_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class AnsweredChoice:
    """One response as the model wrote it, whatever of it was served."""

    index: int
    response: "ModelResponse"
    judgement: "Judgement"
    guard: "GuardReport | None"
    finish_reason: str | None
    """None: the response was given, not generated."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What was served."""

    response_id: str
    choices: Sequence[AnsweredChoice]

    @property
    def n_tokens(self) -> int:
        """Of all choices."""
        return sum(len(choice.response.tokens) for choice in self.choices)


@dataclass(slots=True)
class RequestRecord:
    """One request; grows while it is served."""

    request_id: str
    method: str = ""
    traceparent: str = ""
    """The header of W3C Trace Context; empty where there is none."""
    started: float = field(default_factory=time.time)
    """Unix time."""
    seconds: float = 0.0
    """Until the last byte."""
    route: str = "other"
    """The route's template."""
    status: int = CLIENT_LEFT
    """The HTTP status; of a stream that ended with an `error` event, the error's."""
    error: str | None = None
    """Code of the error that was answered."""
    action: str = "none"
    caller: str | None = None
    """Name of the API key."""
    asked: Asked | None = None
    answered: Answered | None = None
    transcripts: "list[Transcript]" = field(default_factory=list)
    """Of all that was generated for it, in the order of their beginning."""


class Sink(Protocol):
    """Something that is told of every request once it has ended. Called on the event loop, so it must not block."""

    def write(self, record: RequestRecord) -> None:
        """Take in one request."""

    def close(self) -> None:
        """Write out what is left; blocks for a few seconds at most."""


_current: ContextVar[RequestRecord | None] = ContextVar("hguard_request", default=None)


def begin_record(record: RequestRecord) -> None:
    """Make it the current one of this task and of those that it starts.

    It is never taken back: the server logs what escapes from the application in the same task, and that line needs the
    request id, too. Every request is a task of its own.
    """
    _current.set(record)


def current_record() -> RequestRecord | None:
    """That of the request which is being served here."""
    return _current.get()


def note_request_id(request_id: str) -> None:
    """The request is known by another id from now on."""
    if (record := _current.get()) is not None:
        record.request_id = request_id


def note_caller(name: str) -> None:
    """Whose key the request was sent with."""
    if (record := _current.get()) is not None:
        record.caller = name


def note_error(status: int, code: str) -> None:
    """The request was answered with an error, which may be the last event of a stream."""
    if (record := _current.get()) is not None:
        record.status, record.error = status, code


def note_asked(
    body: "GenerateRequest | ScoreRequest", served: "ServedModel", guard: "GuardPlan", n_prompt_tokens: int
) -> None:
    """The request is valid and is going to the engine."""
    if (record := _current.get()) is not None:
        record.asked = Asked(body, served, guard, n_prompt_tokens)


def note_transcript(transcript: "Transcript") -> None:
    """A response begins; a stream may show it before it is whole."""
    if (record := _current.get()) is not None:
        record.transcripts.append(transcript)


def note_answered(response_id: str, choices: Sequence[AnsweredChoice]) -> None:
    """The response is whole and is being sent."""
    if (record := _current.get()) is not None:
        if record.answered is not None:  # of a check of several answers each is noted when it was judged
            choices = sorted([*record.answered.choices, *choices], key=lambda choice: choice.index)
        record.answered = Answered(response_id, choices)
