"""POST /score: judge a response that exists already."""

from fastapi import APIRouter, Response

from service.answering.scoring import score_within
from service.routes.dependencies import CurrentCall
from service.routes.responses import ERRORS
from service.schemas.score import ScoreRequest, ScoreResponse
from service.web.disconnect import ClientLeftError, while_connected
from service.web.middleware import CLIENT_LEFT, note_action
from service.web.request_id import override_request_id

router = APIRouter()


@router.post("/score", response_model=ScoreResponse, responses=ERRORS)
async def score(body: ScoreRequest, call: CurrentCall) -> Response:
    """One teacher-forced pass; on the tokens of a generated response it gives the same numbers."""
    override_request_id(call.request.scope, body.request_id)
    try:
        answer = await while_connected(call.request.receive, score_within(call, body))
    except ClientLeftError:
        call.metrics.disconnects.inc()
        return Response(status_code=CLIENT_LEFT)
    note_action(call.request.scope, answer.guard.action)
    return Response(answer.model_dump_json(), media_type="application/json")
