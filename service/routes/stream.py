"""The stream of POST /generate: start, token ..., span ..., guard, then exactly one of done or error."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence

from fastapi import Request
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Message

from service.answer import action_of, assemble, new_id, note_outcomes
from service.choice import Outcome, run_choices, within
from service.errors import ApiError, internal_error
from service.generation import OnToken
from service.guard import TokenScore
from service.metrics import Metrics
from service.middleware import note_action
from service.plan import GenerationPlan
from service.policy import HELD
from service.record import CLIENT_LEFT, note_error
from service.report import report_spans, report_token, report_tokens
from service.response import ResponseToken
from service.schemas.generate import GenerateRequest
from service.schemas.stream import GuardEvent, SpanEvent, StartEvent, TokenEvent
from service.served import ServedModel

PING_SECONDS = 15
SEND_TIMEOUT_SECONDS = 60
"""A client that reads nothing for so long is taken for gone."""
_LINE_END = "\n"

logger = logging.getLogger("hguard")


def stream_response(
    request: Request,
    body: GenerateRequest,
    served: ServedModel,
    plans: Sequence[GenerationPlan],
    metrics: Metrics,
    request_id: str,
) -> EventSourceResponse:
    """The response whose body is the stream; when the client leaves, its generator is cancelled."""
    ended = asyncio.Event()

    async def count_disconnect(_message: Message) -> None:
        if not ended.is_set():  # ASGI servers say the same after the last byte
            metrics.disconnects.inc()
            note_error(CLIENT_LEFT, "client_left")

    return EventSourceResponse(
        _events(request, body, served, plans, metrics, request_id, ended),
        ping=PING_SECONDS,
        ping_message_factory=lambda: ServerSentEvent(comment="ping", sep=_LINE_END),
        sep=_LINE_END,
        send_timeout=SEND_TIMEOUT_SECONDS,
        client_close_handler_callable=count_disconnect,
    )


async def _events(
    request: Request,
    body: GenerateRequest,
    served: ServedModel,
    plans: Sequence[GenerationPlan],
    metrics: Metrics,
    request_id: str,
    ended: asyncio.Event,
) -> AsyncIterator[ServerSentEvent]:
    holds = body.stream_mode == "hold" or body.guard.policy in HELD
    model, response_id = served.engine.model_name, new_id()
    yield _event(
        "start",
        StartEvent(
            id=response_id,
            model=model,
            created=int(time.time()),
            request_id=request_id,
            stream_mode="hold" if holds else "immediate",
        ),
    )
    waiting: asyncio.Queue[ServerSentEvent | None] = asyncio.Queue()
    work = run_choices(served, plans, metrics, None if holds else lambda index: _forward(waiting, index))
    task = asyncio.ensure_future(within(body.timeout_s, work))
    task.add_done_callback(lambda _: waiting.put_nowait(None))
    metrics.running.inc()
    try:
        while (event := await waiting.get()) is not None:
            yield event
        outcomes = task.result()
        note_outcomes(response_id, outcomes)
        for outcome in outcomes:
            for event in _closing(outcome, holds=holds, shows_spans=body.guard.return_spans):
                yield event
        choices = [outcome.choice.model_copy(update={"guard": None}) for outcome in outcomes]
        note_action(request.scope, action_of(outcomes))
        last = _event("done", assemble(response_id, model, plans, outcomes, choices))
    except ApiError as error:
        last = _event("error", error.envelope(request_id))
    except Exception as error:  # the status line has gone out: a defect, too, must end in words
        logger.error("stream %s failed", request_id, exc_info=error)
        last = _event("error", internal_error().envelope(request_id))
    finally:
        task.cancel()
        metrics.running.dec()
    ended.set()
    yield last


def _forward(waiting: "asyncio.Queue[ServerSentEvent | None]", index: int) -> OnToken:
    def put(at: int, token: ResponseToken, score: TokenScore) -> None:
        report = report_token(at, token, score, is_answer=None)
        waiting.put_nowait(_event("token", TokenEvent(**report.model_dump(), index=index), at))

    return put


def _closing(outcome: Outcome, *, holds: bool, shows_spans: bool) -> Iterator[ServerSentEvent]:
    """What is sent of a choice once it was judged."""
    generation, index = outcome.generation, outcome.choice.index
    response, judgement = generation.response, generation.judgement
    if holds and not outcome.is_withheld:
        for report in report_tokens(response, judgement, is_withheld=False):
            yield _event("token", TokenEvent(**report.model_dump(), index=index), report.i)
    if shows_spans:
        for span in report_spans(response, judgement, is_withheld=outcome.is_withheld):
            yield _event("span", SpanEvent(**span.model_dump(), index=index))
    assert outcome.choice.guard is not None
    finish_reason = outcome.choice.finish_reason
    yield _event("guard", GuardEvent(**outcome.choice.guard.model_dump(), index=index, finish_reason=finish_reason))


def _event(name: str, data: BaseModel, at: int | None = None) -> ServerSentEvent:
    return ServerSentEvent(data.model_dump_json(), event=name, id=None if at is None else str(at), sep=_LINE_END)
