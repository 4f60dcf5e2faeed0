"""POST /beta/litellm_basic_guardrail_api: the guardrail that LiteLLM's gateway asks before and after a model's call.

The gateway sends the prompt only before the call, so it is kept by `litellm_call_id` until the answer comes. It takes
502, 503 and 504 for "unreachable" and may then let the answer past, so whatever goes wrong here with an answer is
decided here, by HGUARD_ON_ERROR, and answered with 200.
Source: `litellm/proxy/guardrails/guardrail_hooks/generic_guardrail_api` of LiteLLM 1.106.
"""

import re
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from service.admission.auth import caller_of
from service.admission.gate import Admission
from service.admission.key_limits import allow_on_error
from service.answering.answer import new_id
from service.answering.call import Call
from service.answering.checking import Verdict, check_texts, without_score
from service.answering.prompt_memory import PromptMemory
from service.guard.policy import OnError
from service.lifecycle import Lifecycle
from service.observe.metrics import Metrics
from service.probe_roles.served import probe_label
from service.routes.dependencies import CurrentLifecycle, CurrentMetrics
from service.routes.responses import ERRORS
from service.schemas.chat_text import read_conversation
from service.schemas.litellm import GuardrailAnswer, GuardrailOptions, GuardrailRequest
from service.schemas.prompt import Message
from service.web.disconnect import ClientLeftError, while_connected
from service.web.errors import ApiError
from service.web.middleware import CLIENT_LEFT, note_action
from service.web.request_id import request_id_of

router = APIRouter()

_LABELLABLE = re.compile(r"[A-Za-z0-9._:-]{1,120}")
"""Call ids that answers can be labelled by; LiteLLM's own are UUIDs, its clients may choose others."""
_HINTS = {
    "prompt_not_remembered": "no prompt came before it under its litellm_call_id: the guardrail needs both modes, "
    "pre_call and post_call, at one hguard process, and HGUARD_REMEMBER_S longer than the model takes",
    "prompt_unsupported": "its prompt is not a conversation in text that ends with the user's turn",
}


def prompts_of(request: Request) -> PromptMemory:
    """The application's memory of prompts."""
    prompts: PromptMemory = request.app.state.prompts
    return prompts


CurrentPrompts = Annotated[PromptMemory, Depends(prompts_of)]


@router.post("/beta/litellm_basic_guardrail_api", response_model=GuardrailAnswer, responses=ERRORS)
async def guard_call(
    request: Request,
    body: GuardrailRequest,
    lifecycle: CurrentLifecycle,
    metrics: CurrentMetrics,
    prompts: CurrentPrompts,
) -> Response:
    """Before the call: remember the prompt. After it: judge the answers; what cannot be judged follows `on_error`."""
    if body.input_type == "request":
        if body.litellm_call_id is not None:
            prompts.keep(body.litellm_call_id, _conversation(body))
        return _json(GuardrailAnswer(action="NONE"))
    options = body.additional_provider_specific_params or GuardrailOptions()
    on_error = allow_on_error(caller_of(request.scope).limits, options.on_error, lifecycle.settings.on_error)
    try:
        work = _judge(request, lifecycle, prompts, body, options, metrics, on_error)
        answer = await while_connected(request.receive, work)
    except ClientLeftError:
        metrics.disconnects.inc()
        return Response(status_code=CLIENT_LEFT)
    actions = [guard.action for guard in answer.guards if guard is not None]
    note_action(request.scope, "blocked" if answer.action == "BLOCKED" else next(iter(actions), "none"))
    return _json(answer)


def _conversation(body: GuardrailRequest) -> tuple[Message, ...]:
    """The prompt; empty where the served model cannot be asked the same."""
    if body.images:
        return ()
    if body.structured_messages:
        return read_conversation(body.structured_messages)
    if body.texts is not None and len(body.texts) == 1:
        return read_conversation([{"role": "user", "content": body.texts[0]}])
    return ()


async def _judge(
    request: Request,
    lifecycle: Lifecycle,
    prompts: PromptMemory,
    body: GuardrailRequest,
    options: GuardrailOptions,
    metrics: Metrics,
    on_error: OnError,
) -> GuardrailAnswer:
    texts, caller = body.texts or [], caller_of(request.scope)
    admission: Admission = request.app.state.admission

    def answer_without_score(reason: str) -> GuardrailAnswer:
        verdicts = [without_score(reason, on_error, metrics) if text else Verdict() for text in texts]
        return _answer(verdicts, None, on_error, probe="", response_id=None)

    conversation = prompts.recall(body.litellm_call_id) if body.litellm_call_id is not None else None
    if not any(texts):
        return GuardrailAnswer(action="NONE", guards=(None,) * len(texts))
    if not conversation:
        return answer_without_score("prompt_not_remembered" if conversation is None else "prompt_unsupported")
    try:
        call_id = body.litellm_call_id or request_id_of(request.scope)
        with lifecycle.serving(caller.limits, call_id, options.probe) as served:

            def open_call() -> Call:
                return Call(request, served, metrics, admission.open(caller), request.app.state.feedback)

            response_id = _name_response(body.litellm_call_id)
            verdicts = await check_texts(open_call, conversation, texts, options, metrics, on_error, response_id)
            model, probe = served.engine.model_name, probe_label(served.probe)
            return _answer(verdicts, model, on_error, probe=probe, response_id=response_id)
    except ApiError as error:
        if error.status != 503:
            raise
        return answer_without_score(error.code)


def _name_response(call_id: str | None) -> str:
    """The id for labels: the gateway drops ours, but its client reads the call's in `x-litellm-call-id`."""
    return f"litellm-{call_id}" if call_id and _LABELLABLE.fullmatch(call_id) else new_id()


def _answer(
    verdicts: Sequence[Verdict], model: str | None, on_error: OnError, *, probe: str, response_id: str | None
) -> GuardrailAnswer:
    guards = tuple(verdict.guard for verdict in verdicts)
    risks = [guard.risk for guard in guards if guard is not None and guard.risk is not None]
    unscored = tuple(verdict.unscored for verdict in verdicts if verdict.unscored is not None)
    blocked = [guard for guard in guards if guard is not None and guard.action == "blocked"]
    reason = None
    if blocked:
        worst = max(blocked, key=lambda guard: guard.risk or 0.0)
        reason = (
            f"hguard blocked this answer: hallucination risk {worst.risk:.2f} is not below the "
            f"threshold {worst.threshold:.2f} (probe {probe}, read by {model})"
        )
        if worst.out_of_domain:
            reason += "; out of domain: the risk was not calibrated for answers like it"
    elif unscored and on_error == "fail_closed":
        hint = _HINTS.get(unscored[0], "the log and hguard_scoring_failures_total say more")
        reason = f"hguard blocked this answer: unscored, {unscored[0]} (fail_closed); {hint}"
    return GuardrailAnswer(
        action="NONE" if reason is None else "BLOCKED",
        blocked_reason=reason,
        id=response_id if any(guard is not None for guard in guards) else None,
        model=model,
        risk=max(risks, default=None),
        unscored=unscored,
        guards=guards,
    )


def _json(answer: GuardrailAnswer) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")
