"""POST /v1/chat/completions and /v1/completions, GET /v1/models: for OpenAI's clients, with the guard beside."""

import time

from fastapi import APIRouter, Request, Response

from service.admission import Ticket
from service.answer import assemble, new_id
from service.disconnect import ClientLeftError
from service.errors import ApiError
from service.metrics import Metrics
from service.middleware import CLIENT_LEFT
from service.openai_form import guard_of, read_request, write_chat, write_headers, write_text
from service.request_id import override_request_id
from service.routes.dependencies import CurrentMetrics, CurrentModel, CurrentTicket
from service.routes.openai_stream import ChatChunks, TextChunks
from service.routes.responses import CHUNKS, ERRORS, NOT_READY
from service.routes.run import plan_and_join, run_connected
from service.routes.stream import stream_response
from service.schemas.openai_answer import ChatCompletion, ModelEntry, ModelList, TextCompletion
from service.schemas.openai_request import ChatRequest, CompletionRequest
from service.served import ServedModel, probe_label

router = APIRouter(prefix="/v1")


@router.post("/chat/completions", response_model=ChatCompletion, responses=ERRORS | CHUNKS)
async def complete_chat(
    request: Request, body: ChatRequest, served: CurrentModel, metrics: CurrentMetrics, ticket: CurrentTicket
) -> Response:
    """Go on with a conversation."""
    wants_logprobs = bool(body.logprobs)
    form = ChatChunks(body.n or 1, wants_logprobs=wants_logprobs, includes_usage=body.includes_usage)
    return await _answer(request, body, served, metrics, ticket, form, wants_logprobs=wants_logprobs)


@router.post("/completions", response_model=TextCompletion, responses=ERRORS | CHUNKS)
async def complete_text(
    request: Request, body: CompletionRequest, served: CurrentModel, metrics: CurrentMetrics, ticket: CurrentTicket
) -> Response:
    """Go on with a text."""
    wants_logprobs = body.logprobs is not None
    form = TextChunks(body.n or 1, wants_logprobs=wants_logprobs, includes_usage=body.includes_usage)
    return await _answer(request, body, served, metrics, ticket, form, wants_logprobs=wants_logprobs)


@router.get("/models", responses=NOT_READY)
async def list_models(served: CurrentModel) -> ModelList:
    """The one model that is served."""
    engine = served.engine
    entry = ModelEntry(id=engine.model_name, created=int(time.time()), max_model_len=engine.max_model_len)
    return ModelList(data=[entry])


async def _answer(
    request: Request,
    body: ChatRequest | CompletionRequest,
    served: ServedModel,
    metrics: Metrics,
    ticket: Ticket,
    form: ChatChunks | TextChunks,
    *,
    wants_logprobs: bool,
) -> Response:
    asked = read_request(body)
    request_id = override_request_id(request.scope, asked.request_id)
    try:
        plans = await plan_and_join(request, asked, served, metrics, ticket, request_id)
    except ApiError as error:
        error.param = error.param and error.param.removeprefix("sampling.")  # as this client wrote it
        raise
    if asked.stream:
        headers = {"x-hguard-probe": probe_label(served.probe)}
        return stream_response(request, asked, served, plans, metrics, request_id, ticket, form, headers)
    try:
        outcomes = await run_connected(request, served, plans, metrics, ticket, asked.timeout_s)
    except ClientLeftError:
        return Response(status_code=CLIENT_LEFT)
    choices, waited = [outcome.choice for outcome in outcomes], ticket.queue_seconds
    answer = assemble(new_id(), served.engine.model_name, plans, outcomes, choices, queue_seconds=waited)
    write = write_chat if isinstance(body, ChatRequest) else write_text
    written = write(answer, outcomes, wants_logprobs=wants_logprobs)
    headers = write_headers(guard_of(outcomes[0].choice))
    return Response(written.model_dump_json(), headers=headers, media_type="application/json")
