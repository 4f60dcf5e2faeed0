"""POST /v1/chat/completions and /v1/completions, GET /v1/models: for OpenAI's clients, with the guard beside."""

import time

from fastapi import APIRouter, Response

from service.answering.call import Call
from service.answering.openai_form import guard_of, read_request, write_chat, write_headers, write_text
from service.probe_roles.served import probe_label
from service.routes.dependencies import CurrentCall, CurrentModel
from service.routes.openai_stream import ChatChunks, TextChunks
from service.routes.responses import CHUNKS, ERRORS, NOT_READY
from service.routes.run import plan_and_join, run_connected
from service.routes.stream import stream_response
from service.schemas.openai_answer import ChatCompletion, ModelEntry, ModelList, TextCompletion
from service.schemas.openai_request import ChatRequest, CompletionRequest
from service.web.disconnect import ClientLeftError
from service.web.errors import ApiError
from service.web.middleware import CLIENT_LEFT

router = APIRouter(prefix="/v1")


@router.post("/chat/completions", response_model=ChatCompletion, responses=ERRORS | CHUNKS)
async def complete_chat(body: ChatRequest, call: CurrentCall) -> Response:
    """Go on with a conversation."""
    wants_logprobs = bool(body.logprobs)
    form = ChatChunks(body.n or 1, wants_logprobs=wants_logprobs, includes_usage=body.includes_usage)
    return await _answer(call, body, form, wants_logprobs=wants_logprobs)


@router.post("/completions", response_model=TextCompletion, responses=ERRORS | CHUNKS)
async def complete_text(body: CompletionRequest, call: CurrentCall) -> Response:
    """Go on with a text."""
    wants_logprobs = body.logprobs is not None
    form = TextChunks(body.n or 1, wants_logprobs=wants_logprobs, includes_usage=body.includes_usage)
    return await _answer(call, body, form, wants_logprobs=wants_logprobs)


@router.get("/models", responses=NOT_READY)
async def list_models(served: CurrentModel) -> ModelList:
    """The one model that is served."""
    engine = served.engine
    entry = ModelEntry(id=engine.model_name, created=int(time.time()), max_model_len=engine.max_model_len)
    return ModelList(data=[entry])


async def _answer(
    call: Call,
    body: ChatRequest | CompletionRequest,
    form: ChatChunks | TextChunks,
    *,
    wants_logprobs: bool,
) -> Response:
    asked = read_request(body)
    try:
        plans = await plan_and_join(call, asked)
    except ApiError as error:
        error.param = error.param and error.param.removeprefix("sampling.")  # as this client wrote it
        raise
    if asked.stream:
        return stream_response(call, asked, plans, form, {"x-hguard-probe": probe_label(call.served.probe)})
    try:
        answer, outcomes = await run_connected(call, plans, asked.timeout_s)
    except ClientLeftError:
        return Response(status_code=CLIENT_LEFT)
    write = write_chat if isinstance(body, ChatRequest) else write_text
    written = write(answer, outcomes, wants_logprobs=wants_logprobs)
    headers = write_headers(guard_of(outcomes[0].choice))
    return Response(written.model_dump_json(), headers=headers, media_type="application/json")
