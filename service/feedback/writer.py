"""FeedbackWriter: the one thread that talks to the feedback database, and the bounded rows that wait for it."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy.exc import DisconnectionError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service.feedback.served_response import ServedResponse
from service.feedback.store import FeedbackStore, one_line
from service.observe.metrics import Metrics

PENDING_LIMIT = 10_000
"""Responses that wait for a database at most."""
PENDING_CHARACTERS = 50_000_000
"""Characters of them at most, where texts are kept: a prompt may have a million."""
FAILURES = (SQLAlchemyError, OSError, TimeoutError)
"""What a database does to us."""
_OUTAGES = (OperationalError, InterfaceError, DisconnectionError, PoolTimeoutError, OSError)
"""Those that may pass; rows are kept for another try."""

logger = logging.getLogger("hguard")

T = TypeVar("T")


class FeedbackWriter:
    """Rows in, one at a time or many; written together."""

    def __init__(self, store: FeedbackStore, metrics: Metrics) -> None:
        self.store, self.metrics = store, metrics
        self._pending = deque[ServedResponse]()
        self._n_characters = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hguard-feedback")
        self._is_failing = False

    def add(self, rows: Sequence[ServedResponse]) -> None:
        """Keep rows until `flush`; the oldest go, counted, where too many wait."""
        self._pending.extend(rows)
        self._n_characters += sum(row.n_characters for row in rows)
        self._drop_oldest()

    def holds(self, response_id: str) -> bool:
        """Whether a response waits."""
        return any(row.id == response_id for row in self._pending)

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Run something on the thread, after all that was asked before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def flush(self) -> None:
        """Write what waits.

        Raises:
            Exception: The database failed; the rows wait on, unless they are what it refuses.
        """
        rows, n_characters = list(self._pending), self._n_characters
        self._pending.clear()
        self._n_characters = 0
        try:
            await self.run(self.store.write, rows)
        except _OUTAGES:
            self._pending.extendleft(reversed(rows))
            self._n_characters += n_characters
            self._drop_oldest()
            raise
        except SQLAlchemyError:
            self._count_lost(len(rows))
            raise

    async def close(self, timeout_seconds: float) -> None:
        """Write what is left, if the database answers, and end the thread."""
        left = len(self._pending)
        try:
            await asyncio.wait_for(self.flush(), timeout_seconds)
        except FAILURES as error:
            logger.error("%d responses were not kept for feedback: %s", left, one_line(error))
        self._thread.submit(self.store.close)
        self._thread.shutdown(wait=False)

    def say_failed(self, error: BaseException) -> None:
        """Log a failure, once an outage."""
        if not self._is_failing:
            logger.error("feedback database: %s", one_line(error))
        self._is_failing = True

    def say_works(self) -> None:
        """The outage, if there was one, is over."""
        self._is_failing = False

    def _drop_oldest(self) -> None:
        lost = 0
        while len(self._pending) > PENDING_LIMIT or self._n_characters > PENDING_CHARACTERS:
            self._n_characters -= self._pending.popleft().n_characters
            lost += 1
        if lost:
            self._count_lost(lost)

    def _count_lost(self, n: int) -> None:
        self.metrics.feedback_failures.labels("remember").inc(n)
