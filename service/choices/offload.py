"""Offload: long work of the CPU beside the event loop, so that health routes and other streams go on.

The threads are daemons: one that never comes back holds up neither its caller's deadline nor the end of the process.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")

LONG_TEXT = 16 * 1024
"""Characters of a request from which its text is tokenised beside the loop; below it takes a few milliseconds."""
LONG_RESPONSE = 200
"""Tokens of a response from which it is judged beside the loop; below it takes a few milliseconds."""


class DaemonThreads:
    """A few threads that take work in turn; started when they are first needed."""

    def __init__(self, n_threads: int, name: str) -> None:
        self._most, self._name = n_threads, name
        self._works: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._n_threads = 0
        self.n_unfinished = 0
        """Works that wait or run, those that nobody waits for any more included."""
        self._lock = threading.Lock()

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function that touches nothing of the event loop; given up, it is not begun, or runs on unheard."""
        future: Future[T] = Future()
        context = copy_context()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(context.run(function, *arguments))
                except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                    future.set_exception(error)

        with self._lock:
            self.n_unfinished += 1
            if self._n_threads < min(self._most, self.n_unfinished):
                self._n_threads += 1
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
        self._works.put(work)
        return await asyncio.wrap_future(future)

    def _serve(self) -> None:
        while True:
            self._works.get()()
            with self._lock:
                self.n_unfinished -= 1


_threads = DaemonThreads(2, "hguard-offload")  # more would only take turns under the interpreter's lock


async def offload(function: Callable[..., T], *arguments: object, when: bool) -> T:
    """Call a function that touches nothing of the event loop.

    Args:
        function: What to call.
        arguments: Of the call.
        when: Whether it takes long; else it is called right here, which costs no change of threads.
    """
    return await _threads.run(function, *arguments) if when else function(*arguments)
