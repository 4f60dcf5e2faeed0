"""Disconnect: a JSON handler that nobody waits for any more is stopped.

FastAPI cancels a streaming handler when its client leaves; a plain one runs to its end. So the handler's work runs as a
task beside a listener, and whichever ends first ends the other.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientLeftError(Exception):
    """The client closed the connection before its answer was ready."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, unless the client leaves.

    Args:
        receive: The request's ASGI receive, its body read already.
        work: What to do.

    Raises:
        ClientLeftError: The client left; the work has been cancelled and has finished cleaning up.
    """
    task = asyncio.ensure_future(work)
    listener = asyncio.ensure_future(_leaves(receive))
    try:
        await asyncio.wait({task, listener}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeftError
    finally:
        for running in (task, listener):
            running.cancel()
        await asyncio.gather(task, listener, return_exceptions=True)


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
