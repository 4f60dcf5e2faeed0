"""Shadow: a probe that is scored on the passes of the served one, counted, and never served.

Nothing that goes wrong or takes long here touches the answer: it is judged beside it, on a thread of its own, counted
and logged, and what is late is given up like any scorer.
"""

import asyncio
import time
from dataclasses import replace

from service.choices.judging import Scorer
from service.choices.offload import DaemonThreads
from service.choices.plan import GuardPlan
from service.guard.judgement import Judgement
from service.guard.policy import is_over
from service.guard.response import ModelResponse
from service.observe.metrics import Metrics
from service.probe_roles.served import ServedModel, probe_label

_THREADS = DaemonThreads(1, "hguard-shadow")
_MOST_WAITING = 64
"""Judgements of a shadow that may be unfinished; more are not begun."""
_running: set[asyncio.Task[None]] = set()


def start_shadow(
    served: ServedModel, plan: GuardPlan, response: ModelResponse, judgement: Judgement, metrics: Metrics
) -> None:
    """Judge a served response with the shadow, too, without waiting for it; arguments as of `judge_shadow`."""
    if served.shadow is None or not plan.is_scored:
        return
    if _THREADS.n_unfinished >= _MOST_WAITING:
        metrics.shadow_failures.labels("too_slow").inc()
        return
    task = asyncio.create_task(judge_shadow(served, plan, response, judgement, metrics))
    _running.add(task)  # else nothing holds it
    task.add_done_callback(_running.discard)


async def judge_shadow(
    served: ServedModel, plan: GuardPlan, response: ModelResponse, judgement: Judgement, metrics: Metrics
) -> None:
    """Judge a served response with the shadow, too, and count its risk and whether the two decide differently.

    Args:
        served: The probe that answered, and the shadow, if there is one.
        plan: Of the request; a response that is not scored has no shadow either.
        response: With the rows of all heads.
        judgement: Of the probe that answered.
        metrics: Where to count.
    """
    shadow, began = served.shadow, time.perf_counter()
    if shadow is None or not plan.is_scored:
        return
    probe = shadow.probe
    scorer = Scorer(replace(served, artifact=shadow), plan, _THREADS)
    found = await scorer.judge(served.shadow_rows(response, probe))
    metrics.scoring.labels("shadow").observe(time.perf_counter() - began)
    if found.status == "failed":
        metrics.shadow_failures.labels(found.failure).inc()
        return
    metrics.observe_risks(found, probe_label(probe), "shadow")
    # Each at its own threshold: that of the request is for the probe that answers.
    is_flagged = is_over(judgement.risk, served.probe.threshold)
    if judgement.status != "failed" and is_over(found.risk, probe.threshold) != is_flagged:
        metrics.shadow_disagreements.inc()
