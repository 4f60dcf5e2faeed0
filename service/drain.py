"""Drain: the orderly end. After the first SIGTERM nothing new is taken and what was taken is finished.

The listener goes on answering meanwhile, `/readyz` with 503; see `service.server` for the signals.
"""

import logging
import time

from service.admission.gate import Admission
from service.observe.metrics import Metrics

LINGER_SECONDS = 1.0
"""The listener answers for so long at least, so that whoever asks /readyz or sends a request reads why."""

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
