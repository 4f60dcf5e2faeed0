"""POST /v1/checks: judge the last message of a conversation, for clients of NeMo Guardrails' checks.

Source: `/v1/checks` of NeMo Guardrails 0.24 (`nemoguardrails/server/api.py`): `messages` in, `status`, `content` and
`rail` out.
"""

from fastapi import APIRouter, Response

from service.answering.checking import check_answer
from service.probe_roles.served import probe_label
from service.routes.dependencies import CurrentCall
from service.routes.responses import ERRORS
from service.schemas.check import AnswerCheck, CheckRequest, CheckResponse
from service.schemas.prompt import Message
from service.web.disconnect import ClientLeftError, while_connected
from service.web.middleware import CLIENT_LEFT, note_action

router = APIRouter()


@router.post("/v1/checks", response_model=CheckResponse, responses=ERRORS)
async def check(body: CheckRequest, call: CurrentCall) -> Response:
    """Passed or blocked, as the policy says of the risk; what cannot be scored is an error, as in /score."""
    *asked, answer = body.messages
    scored = AnswerCheck(
        messages=[Message(role=turn.role, content=turn.content) for turn in asked],
        response=answer.content,
        model=body.model,
        guard=body.guard,
        timeout_s=body.timeout_s,
    )
    try:
        found = await while_connected(call.request.receive, check_answer(call, scored))
    except ClientLeftError:
        call.metrics.disconnects.inc()
        return Response(status_code=CLIENT_LEFT)
    is_blocked = found.guard.action == "blocked"
    note_action(call.request.scope, found.guard.action)
    response = CheckResponse(
        status="blocked" if is_blocked else "passed",
        content=call.served.abstention if is_blocked else answer.content,
        rail=f"hguard {probe_label(call.served.probe)}" if is_blocked else None,
        id=found.id,
        model=found.model,
        risk=found.risk,
        guard=found.guard,
    )
    return Response(response.model_dump_json(), media_type="application/json")
