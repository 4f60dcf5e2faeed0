"""Generation: runs one sequence through the engine and judges it. Knows no policy but `stop`, and no HTTP."""

import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from service.choices.hold import HoldGate
from service.choices.judging import Scorer
from service.choices.offload import LONG_RESPONSE, offload
from service.choices.plan import GenerationPlan
from service.engines.base import EngineError, EngineRequest, FinishReason, RequestTiming
from service.guard.judgement import Judgement, TokenScore
from service.guard.policy import is_over
from service.guard.response import ModelResponse, ResponseToken
from service.guard.transcript import Transcript
from service.observe.metrics import Metrics
from service.observe.record import note_transcript
from service.probe_roles.served import ServedModel

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
    n_shown: int = 0
    """Tokens that `on_token` was called for."""
    is_blocked: bool = False
    """Ended because a part of it that was held is over the threshold, whatever the risk of the whole."""


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
    note_transcript(transcript)
    timing, latest = RequestTiming(), time.perf_counter()
    gate = HoldGate(served, guard, plan.hold_tokens) if plan.hold_tokens and guard.is_scored else None
    scorer = Scorer(served, guard)
    shown = _Shown(transcript, scorer, gate, on_token, metrics)
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
                metrics.steps += 1
                transcript.add(step)
                if step.finish_reason == "error":
                    raise EngineError(f"the engine gave up on {plan.request_id}")
                if step.token is not None:
                    now = time.perf_counter()
                    (metrics.inter_token if n_tokens else metrics.first_token).observe(now - latest)
                    n_tokens, latest = n_tokens + 1, now
                for n_ready in shown.new_tokens():
                    if guard.policy == "stop" and not scorer.is_final:
                        response, is_long = transcript.response(n_ready), n_ready > LONG_RESPONSE
                        if is_over(await offload(scorer.running, response, when=is_long), guard.threshold):
                            transcript.stop_after(n_ready)
                            break
                await shown.show()
                if transcript.finish_reason is not None:
                    break
    finally:
        metrics.generation_tokens.inc(n_tokens)
    if transcript.finish_reason is None:
        raise EngineError(f"the engine ended {plan.request_id} without a finish reason")
    response = transcript.response()
    began = time.perf_counter()
    judgement = await scorer.judge(served.own_rows(response))
    shown.release_rest()
    seconds = time.perf_counter() - began
    if guard.is_scored:
        metrics.scoring.labels("tap").observe(timing.scoring_seconds)
        metrics.scoring.labels("guard").observe(seconds)
    timing.scoring_seconds += seconds
    is_blocked = gate is not None and gate.is_blocked
    return Generation(response, judgement, transcript.finish_reason, alpha, timing, shown.n_shown, is_blocked)


class _Shown:
    """Shows tokens once they are final and, where they are held, released."""

    def __init__(
        self, transcript: Transcript, scorer: Scorer, gate: HoldGate | None, on_token: OnToken | None, metrics: Metrics
    ) -> None:
        self.n_shown = 0
        self._transcript, self._scorer, self._gate, self._on_token = transcript, scorer, gate, on_token
        self._delay = metrics.hold_delay
        self._ready_at: list[float] = []

    def new_tokens(self) -> Iterator[int]:
        """The number of final tokens, as each becomes final."""
        while len(self._ready_at) < self._transcript.n_ready:
            self._ready_at.append(time.perf_counter())
            yield len(self._ready_at)

    async def show(self) -> None:
        """Show what may be shown; end the response where its gate blocks."""
        limit = len(self._ready_at)
        if self._gate is not None:
            await offload(self._scorer.offer, self._gate, self._transcript, when=limit > LONG_RESPONSE)
            if self._gate.is_blocked:
                self._transcript.stop_after(limit)
            limit = self._gate.released
        while self._on_token is not None and self.n_shown < limit:
            at, token = self.n_shown, self._transcript.token(self.n_shown)
            self._on_token(at, token, self._scorer.token(token, self._transcript.row(at)))
            self.n_shown += 1
            self._note_delay(at)

    def release_rest(self) -> None:
        """Say that what is still held waited until now; whether it leaves is the policy's decision."""
        for at in range(self.n_shown, self._transcript.n_kept):
            self._note_delay(at)

    def _note_delay(self, at: int) -> None:
        if self._gate is not None:
            self._delay.observe(time.perf_counter() - self._ready_at[at])
