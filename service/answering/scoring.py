"""Scoring: a given response through the engine and the guard, in one teacher-forced pass."""

import logging
import time
from dataclasses import dataclass
from math import nan

from probes.spans import TextStream
from service.answering.answer import new_id
from service.answering.call import Call
from service.choices.choice import require_score, within
from service.choices.judging import Scorer, failed
from service.choices.offload import LONG_TEXT, offload
from service.choices.plan import (
    GuardPlan,
    check_length,
    check_names,
    encode_request,
    encode_response,
    plan_guard,
    text_length,
)
from service.choices.report import report_guard
from service.choices.shadow import start_shadow
from service.engines.base import EngineError, ScoredSequence, TokenEvidence
from service.feedback.feedback import Feedback
from service.guard.policy import decide
from service.guard.response import read_scored
from service.observe.metrics import Metrics
from service.observe.record import AnsweredChoice, note_answered, note_asked
from service.probe_roles.served import ServedModel, probe_label
from service.schemas.generate import Timing, Usage
from service.schemas.score import ScoreRequest, ScoreResponse
from service.web.errors import ApiError

logger = logging.getLogger("hguard")


@dataclass(frozen=True, slots=True)
class ScorePlan:
    """A checked request."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    text: str | None
    """Where the response ends before its last token's text does; else None."""
    guard: GuardPlan


def plan_score(served: ServedModel, body: ScoreRequest) -> ScorePlan:
    """Check the request against model and probe.

    Raises:
        ApiError: As `service.choices.plan` says, or text and token ids are not of one response.
    """
    check_names(served, body)
    prompt_ids = encode_request(served, body)
    response_ids = encode_response(served, body, prompt_ids)
    check_length(served, len(prompt_ids), len(response_ids), param="response")
    guard = plan_guard(served, body.guard, body.question)
    note_asked(body, served, guard, len(prompt_ids))
    text = None
    if body.response is not None and body.response_token_ids is not None:
        text = _cut_text(served, response_ids, body.response)
    return ScorePlan(prompt_ids, response_ids, text, guard)


async def score_within(
    call: Call, body: ScoreRequest, *, response_id: str | None = None, choice: int = 0
) -> ScoreResponse:
    """Check the request and score, when its turn has come, until its deadline.

    Args:
        call: The request.
        body: What it asks.
        response_id: Name of the answer; None: a new one.
        choice: Which of the answers of that name it is.

    Raises:
        ApiError: As `plan_score`, `run_score`, `within`, and the ticket say.
    """
    plan = await offload(plan_score, call.served, body, when=text_length(body) > LONG_TEXT)
    call.ticket.join(1, len(plan.prompt_ids) + len(plan.response_ids))
    call.metrics.prompt_tokens.inc(len(plan.prompt_ids))
    return await within(
        body.timeout_s,
        call.ticket.run(
            lambda: run_score(
                call.served,
                plan,
                call.metrics,
                response_id or new_id(),
                choice=choice,
                feedback=call.feedback,
                queue_seconds=call.ticket.queue_seconds,
            )
        ),
    )


async def run_score(
    served: ServedModel,
    plan: ScorePlan,
    metrics: Metrics,
    response_id: str,
    *,
    choice: int = 0,
    feedback: Feedback | None = None,
    queue_seconds: float = 0.0,
) -> ScoreResponse:
    """Score, judge, remember and report.

    Args:
        served: The engine and the probe.
        plan: What to score.
        metrics: Where to count.
        response_id: Name of the answer.
        choice: Which of the answers of that name it is.
        feedback: Where to remember it.
        queue_seconds: How long the request waited for admission.

    Raises:
        ApiError: The response could not be scored, be it that the engine failed, and the policy on errors is
            fail_closed.
    """
    guard, probe, began = plan.guard, served.probe, time.perf_counter()
    scored = await _pass(served, plan)
    metrics.steps += 1
    rule = served.heads.bank.position
    response = read_scored(served.engine.tokenizer, scored or _unread(plan), plan.text, rule)
    own = served.own_rows(response)
    judgement = await Scorer(served, guard).judge(own) if scored else failed(response, "engine_error")
    seconds = time.perf_counter() - began
    metrics.scoring.labels("teacher_forced").observe(seconds)
    metrics.record_judgement(judgement, probe_label(probe), served.role)
    if scored:
        start_shadow(served, guard, response, judgement, metrics)
    require_score(judgement, guard.on_error, metrics)
    action = decide(guard.policy, judgement.risk, guard.threshold)
    metrics.record_action(action, guard.policy)
    report = report_guard(served.artifact, guard, response, judgement, action=action, alpha=guard.alpha)
    note_answered(response_id, [AnsweredChoice(choice, response, judgement, report, None)])
    if feedback is not None:
        feedback.remember_scored(response_id, served, guard, response, judgement, action, choice)
    n_prompt, n_response = len(plan.prompt_ids), len(plan.response_ids)
    return ScoreResponse(
        id=response_id,
        model=served.engine.model_name,
        created=int(time.time()),
        usage=Usage(prompt_tokens=n_prompt, completion_tokens=n_response, total_tokens=n_prompt + n_response),
        risk=judgement.risk,
        text=response.text,
        guard=report,
        timing=Timing(queue_s=queue_seconds, prefill_s=0.0, decode_s=0.0, scoring_s=seconds),
    )


async def _pass(served: ServedModel, plan: ScorePlan) -> ScoredSequence | None:
    """The engine's evidence; None where it failed: here that is no more than a response that cannot be scored."""
    guard = plan.guard
    try:
        return await served.engine.score(
            plan.prompt_ids, plan.response_ids, alpha=guard.alpha, wants_neurons=guard.explains, heads=served.heads
        )
    except EngineError as error:
        logger.error("a given response could not be scored", exc_info=error)
        return None


def _unread(plan: ScorePlan) -> ScoredSequence:
    """The tokens of a response that no pass has read."""
    return ScoredSequence(tuple(TokenEvidence(token_id, nan, nan) for token_id in plan.response_ids), ())


def _cut_text(served: ServedModel, response_ids: tuple[int, ...], text: str) -> str:
    """The text as it was served: the beginning of what the tokens say, up to somewhere in the last one."""
    stream = TextStream(served.engine.tokenizer)
    for token_id in response_ids:
        stream.push(token_id)
    stream.finish()
    if not stream.text.startswith(text) or (stream.offsets[-1][0] >= len(text) and text != stream.text):
        raise ApiError(
            422, "validation_error", "response is not the text of response_token_ids", param="response_token_ids"
        )
    return text
