"""POST /generate: as JSON, or as a stream of events."""

from fastapi import APIRouter, Request, Response

from service.answer import action_of, assemble, new_id
from service.choice import run_choices, within
from service.disconnect import ClientLeftError, while_connected
from service.middleware import CLIENT_LEFT, note_action
from service.plan import plan_choices
from service.request_id import override_request_id
from service.routes.dependencies import CurrentFeedback, CurrentMetrics, CurrentModel
from service.routes.responses import ERRORS, STREAM
from service.routes.stream import stream_response
from service.schemas.generate import GenerateRequest, GenerateResponse

router = APIRouter()


@router.post("/generate", response_model=GenerateResponse, responses=ERRORS | STREAM)
async def generate(
    request: Request,
    body: GenerateRequest,
    served: CurrentModel,
    metrics: CurrentMetrics,
    feedback: CurrentFeedback,
) -> Response:
    """Ask the model; every response comes with its hallucination risk."""
    request_id = override_request_id(request.scope, body.request_id)
    plans = plan_choices(served, body, request_id)
    metrics.prompt_tokens.inc(len(plans[0].prompt_ids))
    if body.stream:
        return stream_response(request, body, served, plans, metrics, feedback, request_id)
    metrics.running.inc()
    try:
        work = within(body.timeout_s, run_choices(served, plans, metrics))
        outcomes = await while_connected(request.receive, work)
    except ClientLeftError:
        metrics.disconnects.inc()
        return Response(status_code=CLIENT_LEFT)
    finally:
        metrics.running.dec()
    response_id = new_id()
    feedback.remember_choices(response_id, served, plans, outcomes)
    answer = assemble(response_id, served.engine.model_name, plans, outcomes, [outcome.choice for outcome in outcomes])
    note_action(request.scope, action_of(outcomes))
    return Response(answer.model_dump_json(), media_type="application/json")
