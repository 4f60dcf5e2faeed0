"""Server: uvicorn with signals of our own.

Under uvicorn alone the listener closes at the first SIGTERM, so that clients see refused connections where they should
read 503, and streams that take too long are cut with no terminal event. Here its shutdown begins once the last answer
has gone out, or the time is over and everything has been told to end.
"""

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import uvicorn

from service.drain import Drain
from service.lifecycle import Lifecycle

SIGNALS = (signal.SIGTERM, signal.SIGINT)
FLUSH_SECONDS = 5
"""For the last events of streams that were told to end, after the listener has closed."""


class Server(uvicorn.Server):
    """Drains at the first signal; the second one kills it."""

    def __init__(self, config: uvicorn.Config, drain: Drain, lifecycle: Lifecycle) -> None:
        super().__init__(config)
        self.drain, self.lifecycle = drain, lifecycle
        self._is_frozen = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down; libraries check at their end that everything of theirs was collected."""
        was_starting = self.lifecycle.is_starting
        await super().shutdown(sockets)
        gc.unfreeze()
        if was_starting:
            leave()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal begins to drain; the second meets the system's own handler, which no busy loop delays."""
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
        """Ten times a second: go on until everything is answered, or nothing ever can be."""
        if not self._is_frozen and not self.lifecycle.is_starting:
            # Else each full collection walks torch and the model: hundreds of milliseconds for the event loop.
            gc.collect()
            gc.freeze()
            self._is_frozen = True
        self.should_exit = self.should_exit or self.drain.is_over() or self.lifecycle.failure is not None
        return await super().on_tick(counter)


def leave() -> NoReturn:
    """End the process although a thread of it loads: nothing can stop that one, and the interpreter waits for it."""
    for process in multiprocessing.active_children():  # vLLM's, which would load on; it hears no SIGTERM meanwhile
        process.kill()
    logging.shutdown()
    os._exit(0)
