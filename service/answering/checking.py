"""Checking: answers that another program holds, judged by the code of `/score`, and what is said of one that cannot be.

The model that reads the answer is ours; the one that wrote it may be another. `out_of_domain` says when that shows.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from service.admission.key_limits import allow_check
from service.answering.call import Call
from service.answering.scoring import score_within
from service.choices.choice import run_together
from service.guard.policy import OnError
from service.observe.metrics import Metrics
from service.schemas.check import AnswerCheck
from service.schemas.litellm import GuardrailOptions
from service.schemas.prompt import Message
from service.schemas.report import GuardReport
from service.schemas.score import ScoreResponse
from service.web.errors import ApiError, internal_error

NO_RISK = "guard_unavailable"
"""Code of an answer that went through the engine and came back without a risk."""

logger = logging.getLogger("hguard")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of one answer: a guard object, or the reason why there is no score; neither where it is empty."""

    guard: GuardReport | None = None
    unscored: str | None = None
    """A code of our errors."""


async def check_answer(
    call: Call, body: AnswerCheck, *, response_id: str | None = None, choice: int = 0
) -> ScoreResponse:
    """Score one answer, when its turn has come, and decide; arguments as of `score_within`.

    Raises:
        ApiError: As `/score` answers.
    """
    allow_check(call.served.limits, body.guard)
    return await score_within(call, body, response_id=response_id, choice=choice)


async def check_texts(
    open_call: Callable[[], Call],
    conversation: Sequence[Message],
    texts: Sequence[str],
    options: GuardrailOptions,
    metrics: Metrics,
    on_error: OnError,
    response_id: str,
) -> list[Verdict]:
    """One verdict an answer, all to the same conversation, at the same time, each with a call of its own.

    The answers are the choices of one response, by their place among the texts.

    Raises:
        ApiError: 404 or 422 where the options name what is not there; 429 where there is no room.
    """

    async def check(choice: int, text: str) -> Verdict:
        if not text:
            return Verdict()
        body = AnswerCheck(messages=list(conversation), response=text, guard=options, timeout_s=options.timeout_s)
        try:
            call = open_call()
            with closing(call.ticket):
                answer = await check_answer(call, body, response_id=response_id, choice=choice)
        except ApiError as error:
            if error.status == 429 or (error.param or "").startswith("guard."):
                raise
            # A risk that is missing has been counted by the scoring itself.
            return without_score(error.code, on_error, metrics, is_counted=error.code == NO_RISK)
        except Exception as error:
            logger.error("a check failed", exc_info=error)
            return without_score(internal_error().code, on_error, metrics)
        return Verdict(answer.guard, NO_RISK if answer.guard.status == "failed" else None)

    return await run_together([check(choice, text) for choice, text in enumerate(texts)])


def without_score(reason: str, on_error: OnError, metrics: Metrics, *, is_counted: bool = False) -> Verdict:
    """The verdict on an answer that was not scored, counted as a failure and, where it may pass, as that."""
    if not is_counted:
        metrics.scoring_failures.labels(reason).inc()
    if on_error == "fail_open":
        metrics.fail_open.labels(reason).inc()
    return Verdict(unscored=reason)
