"""Generation: runs one sequence through the engine and judges it. Knows no policy but `stop`, and no HTTP."""

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from service.engines.base import EngineError, EngineRequest, FinishReason, RequestTiming
from service.guard import Judgement, TokenScore, judge, running_risk, score_token, unscored
from service.metrics import Metrics
from service.plan import GenerationPlan
from service.policy import is_over
from service.response import ModelResponse, ResponseToken
from service.served import ServedModel
from service.transcript import Transcript

OnToken = Callable[[int, ResponseToken, TokenScore], None]
"""Called once a token, in order, when its text and its score are final."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A generated response with its judgement."""

    response: ModelResponse
    judgement: Judgement
    finish_reason: FinishReason
    alpha: float
    timing: RequestTiming


async def generate(
    served: ServedModel, plan: GenerationPlan, alpha: float, metrics: Metrics, on_token: OnToken | None = None
) -> Generation:
    """Generate and judge one response.

    The engine's iterator is closed on every way out, so a client that left or a deadline frees the slot within a step.

    Raises:
        EngineError: The engine failed.
    """
    guard, probe = plan.guard, served.probe
    rule = probe.position if guard.is_scored else None
    transcript = Transcript(served.engine.tokenizer, plan.stop, rule, needs=rule and served.heads.bank.position)
    timing, shown, latest = RequestTiming(), 0, time.perf_counter()
    request = EngineRequest(
        request_id=plan.request_id,
        prompt_ids=plan.prompt_ids,
        max_tokens=plan.max_tokens,
        sampling=plan.sampling,
        seed=plan.seed,
        alpha=alpha,
        is_scored=guard.is_scored,
        wants_neurons=guard.explains,
        heads=served.heads,
    )
    steps: Any = served.engine.generate(request, timing)
    n_tokens = 0
    try:
        async with aclosing(steps):
            async for step in steps:
                transcript.add(step)
                if step.finish_reason == "error":
                    raise EngineError(f"the engine gave up on {plan.request_id}")
                if step.token is not None:
                    now = time.perf_counter()
                    (metrics.inter_token if n_tokens else metrics.first_token).observe(now - latest)
                    n_tokens, latest = n_tokens + 1, now
                while shown < transcript.n_ready:
                    if on_token is not None:
                        token = transcript.token(shown)
                        on_token(shown, token, score_token(probe, token, transcript.row(shown)))
                    shown += 1
                    if guard.policy == "stop" and is_over(
                        _risk_after(shown, transcript, served, plan), guard.threshold
                    ):
                        transcript.stop_after(shown)
                        break
                if transcript.finish_reason is not None:
                    break
    finally:
        metrics.generation_tokens.inc(n_tokens)
        metrics.queue.observe(timing.queue_seconds)
    if transcript.finish_reason is None:
        raise EngineError(f"the engine ended {plan.request_id} without a finish reason")
    response = transcript.response()
    began = time.perf_counter()
    judgement = judge_response(served, plan, response)
    seconds = time.perf_counter() - began
    metrics.scoring.labels("tap").observe(timing.scoring_seconds)
    metrics.scoring.labels("guard").observe(seconds)
    timing.scoring_seconds += seconds
    return Generation(response, judgement, transcript.finish_reason, alpha, timing)


def judge_response(served: ServedModel, plan: GenerationPlan, response: ModelResponse) -> Judgement:
    """Judge as the plan says."""
    guard = plan.guard
    if not guard.is_scored:
        return unscored(response)
    own = served.own_rows(response)
    return judge(own, served.probe, question=guard.question, locator=guard.locator, explains=guard.explains)


def _risk_after(n_tokens: int, transcript: Transcript, served: ServedModel, plan: GenerationPlan) -> float | None:
    guard = plan.guard
    return running_risk(transcript.response(n_tokens), served.probe, question=guard.question, locator=guard.locator)
