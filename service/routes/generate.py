"""POST /generate: as JSON, or as a stream of events."""

from fastapi import APIRouter, Request, Response

from service.answer import assemble, new_id
from service.disconnect import ClientLeftError
from service.middleware import CLIENT_LEFT
from service.request_id import override_request_id
from service.routes.dependencies import CurrentMetrics, CurrentModel, CurrentTicket
from service.routes.responses import ERRORS, STREAM
from service.routes.run import plan_and_join, run_connected
from service.routes.stream import NamedEvents, stream_response
from service.schemas.generate import GenerateRequest, GenerateResponse

router = APIRouter()


@router.post("/generate", response_model=GenerateResponse, responses=ERRORS | STREAM)
async def generate(
    request: Request, body: GenerateRequest, served: CurrentModel, metrics: CurrentMetrics, ticket: CurrentTicket
) -> Response:
    """Ask the model; every response comes with its hallucination risk."""
    request_id = override_request_id(request.scope, body.request_id)
    plans = await plan_and_join(request, body, served, metrics, ticket, request_id)
    if body.stream:
        return stream_response(request, body, served, plans, metrics, request_id, ticket, NamedEvents())
    try:
        outcomes = await run_connected(request, served, plans, metrics, ticket, body.timeout_s)
    except ClientLeftError:
        return Response(status_code=CLIENT_LEFT)
    choices = [outcome.choice for outcome in outcomes]
    answer = assemble(new_id(), served.engine.model_name, plans, outcomes, choices, queue_seconds=ticket.queue_seconds)
    return Response(answer.model_dump_json(), media_type="application/json")
