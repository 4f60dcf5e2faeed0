"""Watchdog: an engine from which no token comes while requests run stops being ready, and is ready again once one does.

An engine can hang without an error: a stuck kernel, a lost worker. Its requests then end at their deadlines one by one
while /readyz would go on saying yes.
"""

import asyncio
import logging
import time

from service.admission.gate import Admission
from service.lifecycle import Lifecycle

REASON = "engine"

logger = logging.getLogger("hguard")


class Watchdog:
    """Compares the steps that come back from the engine with the time in which requests ran."""

    def __init__(self, lifecycle: Lifecycle, admission: Admission, seconds: float) -> None:
        """Make one; `run` watches.

        Args:
            lifecycle: Whose reasons against being ready it adds to.
            admission: Knows what runs.
            seconds: Without a step, requests running, after which the engine counts as stalled.
        """
        self.lifecycle, self.admission, self.seconds = lifecycle, admission, seconds
        self.metrics = lifecycle.metrics
        self._silent = 0.0
        """Seconds without a step in which something ran, over all requests: each may be given up before the limit."""

    async def run(self) -> None:
        """Watch until cancelled."""
        seen = self.metrics.steps
        while True:
            began = time.monotonic()
            await asyncio.sleep(min(1.0, self.seconds / 4))
            if self.metrics.steps != seen:
                seen = self.metrics.steps
                self._recover()
            elif self.admission.n_running:
                self._silent += time.monotonic() - began
                if self._silent >= self.seconds:
                    self._stall()
            elif REASON in self.lifecycle.reasons:
                await self._ask_engine()

    def _stall(self) -> None:
        if REASON not in self.lifecycle.reasons:
            logger.error("not ready: no token for %.0f s, %d requests run", self._silent, self.admission.n_running)
        self.metrics.stalled.set(1)
        self.lifecycle.reasons[REASON] = (
            f"no token for {self._silent:.0f} s while requests run (HGUARD_STALL_S={self.seconds:g}): "
            "it hangs, or feeds prompts that take longer than that"
        )

    def _recover(self) -> None:
        self._silent = 0.0
        if self.lifecycle.reasons.pop(REASON, None):
            logger.info("the engine answers again")
        self.metrics.stalled.set(0)

    async def _ask_engine(self) -> None:
        """No request will bring a token, as none is let in: score the golden trace instead."""
        try:
            await self.lifecycle.prove(self.seconds)
        except Exception as error:  # whatever it is, the engine is not back
            logger.warning("the engine does not answer yet", exc_info=error)
        else:
            self._recover()
