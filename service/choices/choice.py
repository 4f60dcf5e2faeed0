"""Choice: one response with what the policy made of it, and the run of all choices of a request under one deadline."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from service.choices.generation import Generation, OnToken, generate
from service.choices.plan import GenerationPlan
from service.choices.report import report_guard
from service.choices.shadow import start_shadow
from service.engines.base import EngineError, RequestTiming, RequestTooLongError
from service.guard.judgement import Judgement
from service.guard.policy import WITHHELD, Action, OnError, decide, is_over, prefers_second
from service.observe.metrics import Metrics
from service.probe_roles.served import ServedModel, probe_label
from service.schemas.generate import Choice, FinishLabel
from service.schemas.report import SuppressionReport
from service.web.errors import ApiError

logger = logging.getLogger("hguard")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is served of one choice."""

    generation: Generation
    choice: Choice
    timing: RequestTiming

    @property
    def is_withheld(self) -> bool:
        """The client sees nothing that the model wrote."""
        return self.choice.guard is not None and self.choice.guard.action in WITHHELD


async def run_choices(
    served: ServedModel,
    plans: Sequence[GenerationPlan],
    metrics: Metrics,
    on_token: Callable[[int], OnToken] | None = None,
) -> list[Outcome]:
    """All choices of a request, at the same time; the first failure cancels the others.

    Args:
        served: The engine and the probe.
        plans: One a choice.
        metrics: Where to count.
        on_token: Choice index -> what to call for each of its tokens as soon as it may be shown.
    """
    return await run_together(
        [
            run_choice(served, plan, metrics, index, on_token(index) if on_token else None)
            for index, plan in enumerate(plans)
        ]
    )


async def run_choice(
    served: ServedModel, plan: GenerationPlan, metrics: Metrics, index: int, on_token: OnToken | None = None
) -> Outcome:
    """Generate, judge and apply the policy.

    Raises:
        ApiError: The response could not be scored and the policy on errors is fail_closed.
        EngineError: The engine failed.
    """
    guard = plan.guard
    kept = await generate(served, plan, guard.alpha, metrics, on_token)
    suppressed, timing = None, kept.timing
    if guard.policy == "suppress" and is_over(kept.judgement.risk, guard.threshold):
        metrics.suppressed.inc()
        first, second = kept, await generate(served, plan, guard.suppress_alpha, metrics)
        timing = _add(first.timing, second.timing)
        if prefers_second(first.judgement.risk, second.judgement.risk):
            kept = second
        elif second.judgement.status == "failed":
            metrics.scoring_failures.labels(second.judgement.failure).inc()
        suppressed = SuppressionReport(
            alpha=second.alpha,
            baseline_risk=first.judgement.risk,
            risk=second.judgement.risk,
            kept="suppressed" if kept is second else "baseline",
        )
        action: Action = "suppressed" if kept is second else decide("suppress", kept.judgement.risk, guard.threshold)
    else:
        action = "blocked" if kept.is_blocked else decide(guard.policy, kept.judgement.risk, guard.threshold)
    metrics.record_judgement(kept.judgement, probe_label(served.probe), served.role)
    start_shadow(served, guard, kept.response, kept.judgement, metrics)
    require_score(kept.judgement, guard.on_error, metrics)
    metrics.record_action(action, guard.policy)
    report = report_guard(
        served.artifact,
        guard,
        kept.response,
        kept.judgement,
        action=action,
        alpha=kept.alpha,
        suppressed=suppressed,
    )
    texts: dict[Action, str] = {"blocked": "", "abstained": served.abstention}
    reasons: dict[Action, FinishLabel] = {"blocked": "blocked", "abstained": "abstained"}
    choice = Choice(
        index=index,
        text=texts.get(action, kept.response.text),
        finish_reason=reasons.get(action, kept.finish_reason),
        guard=report,
    )
    return Outcome(kept, choice, timing)


def require_score(judgement: Judgement, on_error: OnError, metrics: Metrics) -> None:
    """Let an unscored response pass only where that was chosen, and count it.

    Raises:
        ApiError: 503 under fail_closed.
    """
    if judgement.status != "failed":
        return
    if on_error == "fail_closed":
        raise ApiError(503, "guard_unavailable", "the response could not be scored, so it is not served (fail_closed)")
    metrics.fail_open.labels(judgement.failure).inc()


async def within(timeout_seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Run under a deadline, and turn what goes wrong into answers.

    Raises:
        ApiError: 504 at the deadline, 500 where the engine failed, 422 where the request does not fit it.
    """
    try:
        async with asyncio.timeout(timeout_seconds) as deadline:
            return await work
    except TimeoutError:
        if not deadline.expired():
            raise
        raise ApiError(504, "timeout", f"not finished within timeout_s = {timeout_seconds:g}") from None
    except RequestTooLongError as error:
        raise ApiError(422, "context_length_exceeded", str(error)) from None
    except EngineError as error:
        logger.error("engine: %s", error, exc_info=error)
        raise ApiError(500, "engine_error", "the engine failed; the log has it under this request id") from None


async def run_together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first failure cancels the rest and is raised as itself."""
    if len(works) == 1:
        return [await works[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _add(a: RequestTiming, b: RequestTiming) -> RequestTiming:
    return RequestTiming(
        a.queue_seconds + b.queue_seconds,
        a.prefill_seconds + b.prefill_seconds,
        a.decode_seconds + b.decode_seconds,
        a.scoring_seconds + b.scoring_seconds,
    )
