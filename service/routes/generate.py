"""POST /generate: as JSON, or as a stream of events."""

from fastapi import APIRouter, Response

from service.routes.dependencies import CurrentCall
from service.routes.responses import ERRORS, STREAM
from service.routes.run import plan_and_join, run_connected
from service.routes.stream import NamedEvents, stream_response
from service.schemas.generate import GenerateRequest, GenerateResponse
from service.web.disconnect import ClientLeftError
from service.web.middleware import CLIENT_LEFT

router = APIRouter()


@router.post("/generate", response_model=GenerateResponse, responses=ERRORS | STREAM)
async def generate(body: GenerateRequest, call: CurrentCall) -> Response:
    """Ask the model; every response comes with its hallucination risk."""
    plans = await plan_and_join(call, body)
    if body.stream:
        return stream_response(call, body, plans, NamedEvents())
    try:
        answer, _ = await run_connected(call, plans, body.timeout_s)
    except ClientLeftError:
        return Response(status_code=CLIENT_LEFT)
    return Response(answer.model_dump_json(), media_type="application/json")
