"""Drain: the orderly end. After the first SIGTERM nothing new is taken and what was taken is finished.

Under uvicorn alone the listener closes at once, so that clients see refused connections where they should read 503,
and streams that take too long are cut with no terminal event. Here uvicorn's own shutdown begins once the last answer
has gone out, or the time is over and everything has been told to end.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from service.admission import Admission
from service.metrics import Metrics

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LINGER_SECONDS = 1.0
"""The listener answers for so long at least, so that whoever asks /readyz or sends a request reads why."""
FLUSH_SECONDS = 5
"""uvicorn's: for the last events of streams that were told to end, and for clients that read slowly."""

logger = logging.getLogger("hguard")


class Drain:
    """Whether the service is shutting down, and whether it is done with it."""

    def __init__(self, admission: Admission, metrics: Metrics, seconds: float) -> None:
        """Begin with nothing to do.

        Args:
            admission: Whom to close.
            metrics: Where to say so.
            seconds: What running requests get to finish.
        """
        self.admission, self.metrics, self.seconds = admission, metrics, seconds
        self._began: float | None = None

    @property
    def is_draining(self) -> bool:
        """No more requests are taken."""
        return self._began is not None

    def begin(self) -> None:
        """Take no more requests."""
        logger.info("draining: %g seconds for running requests; a second signal ends at once", self.seconds)
        self._began = time.monotonic()
        self.admission.is_closed = True
        self.metrics.draining.set(1)

    def is_over(self) -> bool:
        """Whether the server may go; at the end of the time what still runs is told to end."""
        if self._began is None:
            return False
        passed = time.monotonic() - self._began
        if passed >= self.seconds and not self.admission.is_empty:
            logger.warning("draining: the time is over: requests that still run end with an error")
            self.admission.expel()
            return True
        return self.admission.is_empty and passed >= min(LINGER_SECONDS, self.seconds)


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains at the first signal and is killed by the second."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self.drain = drain

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain at the first signal; the second finds the system's own handler, which no busy loop can hold up."""
        loop = asyncio.get_running_loop()

        def begin() -> None:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL)
            self.drain.begin()

        for number in SIGNALS:
            loop.add_signal_handler(number, begin)
        yield

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: go on until everything is answered."""
        self.should_exit = self.should_exit or self.drain.is_over()
        return await super().on_tick(counter)
