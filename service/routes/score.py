"""POST /score: judge a response that exists already."""

from fastapi import APIRouter, Request, Response

from service.answer import new_id
from service.choice import within
from service.disconnect import ClientLeftError, while_connected
from service.middleware import CLIENT_LEFT, note_action
from service.request_id import override_request_id
from service.routes.dependencies import CurrentFeedback, CurrentMetrics, CurrentModel
from service.routes.responses import ERRORS
from service.schemas.score import ScoreRequest, ScoreResponse
from service.scoring import plan_score, run_score

router = APIRouter()


@router.post("/score", response_model=ScoreResponse, responses=ERRORS)
async def score(
    request: Request, body: ScoreRequest, served: CurrentModel, metrics: CurrentMetrics, feedback: CurrentFeedback
) -> Response:
    """One teacher-forced pass; on the tokens of a generated response it gives the same numbers."""
    override_request_id(request.scope, body.request_id)
    plan = plan_score(served, body)
    metrics.prompt_tokens.inc(len(plan.prompt_ids))
    metrics.running.inc()
    try:
        work = within(body.timeout_s, run_score(served, plan, metrics, new_id(), feedback))
        answer = await while_connected(request.receive, work)
    except ClientLeftError:
        metrics.disconnects.inc()
        return Response(status_code=CLIENT_LEFT)
    finally:
        metrics.running.dec()
    note_action(request.scope, answer.guard.action)
    return Response(answer.model_dump_json(), media_type="application/json")
