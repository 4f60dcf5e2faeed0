"""A streamed request: one run of its choices, told as it goes in the form that the route speaks.

`NamedEvents` is the form of POST /generate: start, token ..., span ..., guard, then exactly one of done or error.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Message

from service.answering.answer import new_id
from service.answering.call import Call
from service.choices.choice import Outcome, run_choices, within
from service.choices.generation import OnToken
from service.choices.plan import GenerationPlan
from service.choices.report import report_token, report_tokens
from service.guard.judgement import TokenScore
from service.guard.response import ResponseToken
from service.observe.record import CLIENT_LEFT, note_error
from service.routes.run import finish
from service.schemas.error import ErrorResponse
from service.schemas.generate import GenerateRequest, GenerateResponse
from service.schemas.stream import GuardEvent, SpanEvent, StartEvent, TokenEvent
from service.web.errors import ApiError, internal_error
from service.web.request_id import request_id_of

PING_SECONDS = 15
SEND_TIMEOUT_SECONDS = 60
"""A client that reads nothing for so long is taken for gone."""
_LINE_END = "\n"

logger = logging.getLogger("hguard")


class StreamForm(Protocol):
    """How a route tells its client what happens: `start`, `token` ..., `judged` a choice, then `done` or `failed`."""

    def start(self, event: StartEvent) -> list[ServerSentEvent]:
        """Before the first token."""

    def token(self, event: TokenEvent) -> list[ServerSentEvent]:
        """A token may be shown; never one of a withheld response."""

    def judged(self, outcome: Outcome) -> list[ServerSentEvent]:
        """A choice is whole: all its tokens that may be shown were."""

    def done(self, answer: GenerateResponse) -> list[ServerSentEvent]:
        """All choices are; the end."""

    def failed(self, error: ErrorResponse) -> list[ServerSentEvent]:
        """There will be no answer; the end."""


class NamedEvents:
    """The events of POST /generate."""

    def start(self, event: StartEvent) -> list[ServerSentEvent]:
        """What is known before the first token."""
        return [sse(event, name="start")]

    def token(self, event: TokenEvent) -> list[ServerSentEvent]:
        """One token, with its place as `id`."""
        return [sse(event, name="token", at=event.i)]

    def judged(self, outcome: Outcome) -> list[ServerSentEvent]:
        """Spans, then the final guard object."""
        choice = outcome.choice
        assert choice.guard is not None
        spans = [SpanEvent(**span.model_dump(), index=choice.index) for span in choice.guard.spans or []]
        guard = GuardEvent(**choice.guard.model_dump(), index=choice.index, finish_reason=choice.finish_reason)
        return [*(sse(span, name="span") for span in spans), sse(guard, name="guard")]

    def done(self, answer: GenerateResponse) -> list[ServerSentEvent]:
        """The JSON answer; its guard objects were sent."""
        choices = [choice.model_copy(update={"guard": None}) for choice in answer.choices]
        return [sse(answer.model_copy(update={"choices": choices}), name="done")]

    def failed(self, error: ErrorResponse) -> list[ServerSentEvent]:
        """The error envelope."""
        return [sse(error, name="error")]


def sse(data: BaseModel | str, *, name: str | None = None, at: int | None = None) -> ServerSentEvent:
    """One server-sent event; without a name the plain `data:` that OpenAI's clients read."""
    text = data if isinstance(data, str) else data.model_dump_json()
    return ServerSentEvent(text, event=name, id=None if at is None else str(at), sep=_LINE_END)


def stream_response(
    call: Call,
    body: GenerateRequest,
    plans: Sequence[GenerationPlan],
    form: StreamForm,
    headers: Mapping[str, str] | None = None,
) -> EventSourceResponse:
    """The response whose body is the stream; when the client leaves, its generator is cancelled."""
    ended = asyncio.Event()

    async def count_disconnect(_message: Message) -> None:
        if not ended.is_set():  # ASGI servers say the same after the last byte
            call.metrics.disconnects.inc()
            note_error(CLIENT_LEFT, "client_left")

    return EventSourceResponse(
        _events(call, body, plans, form, ended),
        headers=headers,
        ping=PING_SECONDS,
        ping_message_factory=lambda: ServerSentEvent(comment="ping", sep=_LINE_END),
        sep=_LINE_END,
        send_timeout=SEND_TIMEOUT_SECONDS,
        client_close_handler_callable=count_disconnect,
    )


async def _events(
    call: Call, body: GenerateRequest, plans: Sequence[GenerationPlan], form: StreamForm, ended: asyncio.Event
) -> AsyncIterator[ServerSentEvent]:
    response_id, request_id = new_id(), request_id_of(call.request.scope) or ""
    start = StartEvent(
        id=response_id,
        model=call.served.engine.model_name,
        created=int(time.time()),
        request_id=request_id,
        stream_mode="hold" if plans[0].holds else "immediate",
    )
    for event in form.start(start):
        yield event
    waiting: asyncio.Queue[TokenEvent | None] = asyncio.Queue()
    waits = plans[0].holds and not plans[0].hold_tokens  # until the whole response was judged
    on_token = None if waits else lambda index: _forward(waiting, index)
    work = call.ticket.run(lambda: run_choices(call.served, plans, call.metrics, on_token))
    task = asyncio.ensure_future(within(body.timeout_s, work))
    task.add_done_callback(lambda _: waiting.put_nowait(None))
    try:
        while (token := await waiting.get()) is not None:
            for event in form.token(token):
                yield event
        outcomes = task.result()
        answer = finish(call, response_id, plans, outcomes)
        for outcome in outcomes:
            for token in _held(outcome):
                for event in form.token(token):
                    yield event
            for event in form.judged(outcome):
                yield event
        last = form.done(answer)
    except ApiError as error:
        last = form.failed(error.envelope(request_id))
    except Exception as error:  # the status line has gone out: a defect, too, must end in words
        logger.error("stream %s failed", request_id, exc_info=error)
        last = form.failed(internal_error().envelope(request_id))
    finally:
        task.cancel()
    ended.set()
    for event in last:
        yield event


def _forward(waiting: "asyncio.Queue[TokenEvent | None]", index: int) -> OnToken:
    def put(at: int, token: ResponseToken, score: TokenScore) -> None:
        report = report_token(at, token, score, is_answer=None)
        waiting.put_nowait(TokenEvent(**report.model_dump(), index=index))

    return put


def _held(outcome: Outcome) -> list[TokenEvent]:
    """The tokens of a choice that were held until it was judged; none of a withheld one."""
    if outcome.is_withheld:
        return []
    generation = outcome.generation
    reports = report_tokens(generation.response, generation.judgement, is_withheld=False)
    return [TokenEvent(**report.model_dump(), index=outcome.choice.index) for report in reports[generation.n_shown :]]
