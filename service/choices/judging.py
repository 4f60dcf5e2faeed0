"""Judging: the guard where it can fail. What raises or is late becomes `failed`, with a reason, and never a risk.

The whole judgement is made on a thread, so that a long response or a slow scorer holds up nobody else's tokens and
health checks, and is given up at its deadline. Where so many hang that no thread is left, all others are late, too.
"""

import asyncio
import logging
from functools import partial

from service.choices.hold import HoldGate
from service.choices.offload import DaemonThreads
from service.choices.plan import GuardPlan
from service.engines.base import RowEvidence
from service.guard.judge import judge, score_token, unscored
from service.guard.judgement import FailureReason, Judgement, TokenScore
from service.guard.response import ModelResponse, ResponseToken
from service.guard.running import RunningRisk
from service.guard.transcript import Transcript
from service.probe_roles.served import ServedModel

logger = logging.getLogger("hguard")

_JUDGES = DaemonThreads(4, "hguard-judge")


class Scorer:
    """Judges one response, token by token and as a whole, as its request asked for. Does not raise."""

    def __init__(self, served: ServedModel, guard: GuardPlan, threads: DaemonThreads = _JUDGES) -> None:
        self.served, self.guard = served, guard
        self._threads = threads
        self.failure: FailureReason | None = None
        """Set once something raised; the response can then no longer be scored."""
        self.is_final = False
        """No later token can change what `running` says."""
        self._running: RunningRisk | None = None

    def token(self, token: ResponseToken, row: RowEvidence | None) -> TokenScore:
        """Score one token by its row, which may have a shadow's scores, too."""
        try:
            return score_token(self.served.probe, token, self.served.own_row(row))
        except Exception as error:  # noqa: BLE001 - logged there
            self._note(error)
            return TokenScore()

    def running(self, response: ModelResponse) -> float | None:
        """The risk of a response that goes on; None also where it cannot be had."""
        guard = self.guard
        try:
            if self._running is None:
                self._running = RunningRisk(self.served.probe, question=guard.question, locator=guard.locator)
            risk = self._running.of(response)
        except Exception as error:  # noqa: BLE001 - logged there
            self._note(error)
            self.is_final = True
            return None
        self.is_final = self._running.is_final
        return risk

    def offer(self, gate: HoldGate, transcript: Transcript) -> None:
        """Let a gate look at a response that goes on; it releases nothing more once something raised."""
        if self.failure is None:
            try:
                gate.offer(transcript)
            except Exception as error:  # noqa: BLE001 - logged there
                self._note(error)

    async def judge(self, response: ModelResponse) -> Judgement:
        """Judge the whole response."""
        guard, seconds = self.guard, self.served.score_timeout_seconds
        if not guard.is_scored:
            return unscored(response)
        if self.failure is not None:
            return failed(response, self.failure)
        work = partial(judge, question=guard.question, locator=guard.locator)
        try:
            async with asyncio.timeout(seconds) as deadline:
                return await self._threads.run(work, response, self.served.probe)
        except TimeoutError as error:
            if not deadline.expired():  # the scorer's own
                self._note(error)
                return failed(response, "scorer_error")
            logger.error("a response was not judged within HGUARD_SCORE_TIMEOUT_S = %g", seconds)
            return failed(response, "deadline")
        except Exception as error:  # noqa: BLE001 - logged there
            self._note(error)
            return failed(response, "scorer_error")

    def _note(self, error: Exception) -> None:
        if self.failure is None:  # once, not for each token
            self.failure = "scorer_error"
            logger.error("a response cannot be scored", exc_info=error)


def failed(response: ModelResponse, reason: FailureReason) -> Judgement:
    """The judgement of a response that could not be judged."""
    return Judgement("failed", token_scores=(TokenScore(),) * len(response.tokens), failure=reason)
