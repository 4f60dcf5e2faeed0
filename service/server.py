"""Server: uvicorn with signals of our own.

Under uvicorn alone the listener closes at the first SIGTERM, so that clients see refused connections where they should
read 503, and streams that take too long are cut with no terminal event. Here its shutdown begins once the last answer
has gone out, or the time is over and everything has been told to end.
"""

import asyncio
import gc
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from service.drain import Drain

SIGNALS = (signal.SIGTERM, signal.SIGINT)
FLUSH_SECONDS = 5
"""For the last events of streams that were told to end, after the listener has closed."""


class Server(uvicorn.Server):
    """Drains at the first signal; the second one kills it."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self.drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then keep what has been loaded out of garbage collection.

        Else each full collection walks torch and the model: hundreds of milliseconds in which the event loop stands.
        """
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down; libraries check at their end that everything of theirs was collected."""
        await super().shutdown(sockets)
        gc.unfreeze()

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
        """Ten times a second: go on until everything is answered."""
        self.should_exit = self.should_exit or self.drain.is_over()
        return await super().on_tick(counter)
