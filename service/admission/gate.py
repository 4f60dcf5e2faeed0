"""Admission: the gate before the engine and the bounded queue before the gate. Overload is a 429, at once, in words.

A request opens a ticket before anything is done for it, joins with it once its size is known, and runs when its turn
has come. Callers take turns, so that one with many requests does not keep another with few waiting. All of it belongs
to one event loop. The engine's golden trace does not come through here.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from service.admission.auth import Caller
from service.admission.rate_limit import RateLimits, whole_seconds
from service.admission.service_rate import ServiceRate
from service.observe.metrics import Metrics
from service.web.errors import ApiError

T = TypeVar("T")

RETRY_LIMIT_SECONDS = 60
"""Retry-After says no more: clients such as OpenAI's take a longer one for none."""


class Admission:
    """Who may use the engine now, who waits, and who is sent away."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_sequences: int,
        queue_size: int,
        queue_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nobody.

        Args:
            metrics: Where to count.
            max_sequences: Sequences that the engine has at once; each choice of a request is one.
            queue_size: Requests that wait at most.
            queue_tokens: Tokens of their prompts and longest responses together at most; one request may have more.
            clock: Seconds that never go back.
        """
        self.metrics, self.max_sequences = metrics, max_sequences
        self.queue_size, self.queue_tokens = queue_size, queue_tokens
        self.is_closed = False
        self._clock = clock
        self._rates = RateLimits(clock)
        self._service = ServiceRate(clock)
        self._open: set[Ticket] = set()
        self._lines: OrderedDict[str, deque[Ticket]] = OrderedDict()
        """Who waits, by caller; the caller whose turn it is comes first."""
        self._n_preparing = 0
        self._n_waiting = 0
        self._n_running = 0
        self._waiting_tokens = 0
        self._n_sequences = 0
        metrics.queue_capacity.set(queue_size)

    def open(self, caller: Caller) -> "Ticket":
        """Let a request in, as long as there is a place that it may come to need.

        Raises:
            ApiError: 503 `draining`; 429 `queue_full` or `rate_limited`.
        """
        if self.is_closed:
            self._count("draining")
            raise ApiError(503, "draining", "this server is shutting down: send the request to another")
        free = self.max_sequences - self._n_sequences
        if self._n_preparing + self._n_waiting >= self.queue_size + free or self._waiting_tokens >= self.queue_tokens:
            raise self._full()
        self._check_rate(self._rates.take_request(caller), "requests")
        ticket = Ticket(self, caller)
        self._open.add(ticket)
        self._n_preparing += 1
        return ticket

    @property
    def is_empty(self) -> bool:
        """Every request that was let in has had its last byte."""
        return not self._open

    @property
    def n_running(self) -> int:
        """Requests that the engine has."""
        return self._n_running

    def expel(self) -> None:
        """End every request, waiting or running, with 503 `draining`."""
        for ticket in self._open:
            ticket.expel()

    def enter(self, ticket: "Ticket") -> None:
        """Give a ticket its place at work or in the queue.

        Raises:
            ApiError: 429 `queue_full` or `rate_limited`.
        """
        self._n_preparing -= 1
        ticket.state = "left"
        may_run = not self._n_waiting and self._fits(ticket)
        is_too_much = self._n_waiting and self._waiting_tokens + ticket.tokens > self.queue_tokens
        if not may_run and (self._n_waiting >= self.queue_size or is_too_much):
            raise self._full()
        self._check_rate(self._rates.take_tokens(ticket.caller, ticket.tokens), "tokens")
        ticket.joined = self._clock()
        if may_run:
            if not self._n_sequences:
                self._service.restart()
            self._start(ticket)
        else:
            ticket.state = "waiting"
            self._lines.setdefault(ticket.caller.name, deque()).append(ticket)
            self._note_waiting(1, ticket)

    def remove(self, ticket: "Ticket") -> None:
        """Take back what a ticket holds; no matter when, or how often."""
        state, ticket.state = ticket.state, "left"
        if state == "preparing":
            self._n_preparing -= 1
        elif state == "waiting":
            line = self._lines[ticket.caller.name]
            line.remove(ticket)
            if not line:
                del self._lines[ticket.caller.name]
            self._note_waiting(-1, ticket)
        elif state == "running":
            self._n_sequences -= ticket.sequences
            self._n_running -= 1
            self.metrics.running.set(self._n_running)
            self._service.note_finished()
        self._admit()

    def close_ticket(self, ticket: "Ticket") -> None:
        """The request is over."""
        self.remove(ticket)
        self._open.discard(ticket)

    def retry_after(self) -> int:
        """Seconds in which those who wait now have probably been served, at the rate of the last minute."""
        seconds = self._service.seconds_for(max(1, self._n_waiting))
        return min(RETRY_LIMIT_SECONDS, whole_seconds(seconds))

    def _admit(self) -> None:
        """Let the callers' next requests run, in turn, while the first of them fits: none is overtaken for ever."""
        while self._lines:
            name, line = next(iter(self._lines.items()))
            if not self._fits(line[0]):
                return
            ticket = line.popleft()
            if line:
                self._lines.move_to_end(name)
            else:
                del self._lines[name]
            self._note_waiting(-1, ticket)
            self._start(ticket)

    def _fits(self, ticket: "Ticket") -> bool:
        return self._n_sequences + ticket.sequences <= self.max_sequences

    def _start(self, ticket: "Ticket") -> None:
        ticket.state = "running"
        self._n_sequences += ticket.sequences
        self._n_running += 1
        ticket.queue_seconds = self._clock() - ticket.joined
        ticket.turn.set()
        self.metrics.running.set(self._n_running)
        self.metrics.queue.observe(ticket.queue_seconds)

    def _note_waiting(self, change: int, ticket: "Ticket") -> None:
        self._n_waiting += change
        self._waiting_tokens += change * ticket.tokens
        self.metrics.waiting.set(self._n_waiting)

    def _check_rate(self, seconds: float, unit: str) -> None:
        if seconds:
            self._count("rate_limited")
            message = f"this API key's {unit} a minute are used up"
            raise ApiError(429, "rate_limited", message, retry_after=whole_seconds(seconds))

    def _full(self) -> ApiError:
        self._count("queue_full")
        message = "too many requests wait already: send it again after the seconds of Retry-After"
        return ApiError(429, "queue_full", message, retry_after=self.retry_after())

    def _count(self, reason: Literal["draining", "queue_full", "rate_limited"]) -> None:
        self.metrics.rejections.labels(reason).inc()


class Ticket:
    """One request's way through admission."""

    def __init__(self, admission: Admission, caller: Caller) -> None:
        self.caller = caller
        self.sequences = self.tokens = 0
        self.state: Literal["preparing", "waiting", "running", "left"] = "preparing"
        self.turn = asyncio.Event()
        self.joined = self.queue_seconds = 0.0
        """When it joined, and how long it then waited."""
        self._admission = admission
        self._limit: asyncio.Timeout | None = None
        self._is_expelled = False

    def join(self, sequences: int, tokens: int) -> None:
        """Say how large the request is, and take a place; no awaiting, so a stream can still be refused by status.

        Args:
            sequences: That it generates or scores at once. A request with more than the gate has takes the whole gate,
                and the engine makes them wait among themselves.
            tokens: Of its prompt and its longest possible response or responses.

        Raises:
            ApiError: 429 `queue_full` or `rate_limited`.
        """
        self.sequences, self.tokens = min(sequences, self._admission.max_sequences), tokens
        self._admission.enter(self)

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Wait for the turn, do the work, and free the place, whatever happens; `join` comes first.

        Raises:
            ApiError: 503 `draining`, where the time to finish was over.
        """
        assert self.state != "preparing", "join comes first"
        try:
            async with asyncio.timeout(0 if self._is_expelled else None) as self._limit:
                await self.turn.wait()
                return await work()
        except TimeoutError:
            if not self._is_expelled:
                raise
            message = "this server shut down before the request was finished: send it to another"
            raise ApiError(503, "draining", message) from None
        finally:
            self._limit = None
            self._admission.remove(self)

    def expel(self) -> None:
        """Let `run` end now."""
        self._is_expelled = True
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())

    def close(self) -> None:
        """The response's last byte has been sent, or nobody waits for it any more."""
        self._admission.close_ticket(self)
