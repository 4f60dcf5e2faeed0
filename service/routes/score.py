"""POST /score: judge a response that exists already."""

from fastapi import APIRouter, Request, Response

from service.answer import new_id
from service.choice import within
from service.disconnect import ClientLeftError, while_connected
from service.middleware import CLIENT_LEFT, note_action
from service.offload import LONG_BODY, offload
from service.request_id import override_request_id
from service.routes.dependencies import CurrentMetrics, CurrentModel, CurrentTicket
from service.routes.responses import ERRORS
from service.schemas.score import ScoreRequest, ScoreResponse
from service.scoring import plan_score, run_score

router = APIRouter()


@router.post("/score", response_model=ScoreResponse, responses=ERRORS)
async def score(
    request: Request, body: ScoreRequest, served: CurrentModel, metrics: CurrentMetrics, ticket: CurrentTicket
) -> Response:
    """One teacher-forced pass; on the tokens of a generated response it gives the same numbers."""
    override_request_id(request.scope, body.request_id)
    plan = await offload(plan_score, served, body, when=len(await request.body()) > LONG_BODY)
    ticket.join(1, len(plan.prompt_ids) + len(plan.response_ids))
    metrics.prompt_tokens.inc(len(plan.prompt_ids))
    try:
        work = ticket.run(lambda: run_score(served, plan, metrics, new_id(), queue_seconds=ticket.queue_seconds))
        answer = await while_connected(request.receive, within(body.timeout_s, work))
    except ClientLeftError:
        metrics.disconnects.inc()
        return Response(status_code=CLIENT_LEFT)
    note_action(request.scope, answer.guard.action)
    return Response(answer.model_dump_json(), media_type="application/json")
