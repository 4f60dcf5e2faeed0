"""Offload: long work of the CPU beside the event loop, so that health routes and other streams go on.

Two threads, as more would only take turns under the interpreter's lock, and the event loop would wait for all of them.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")

LONG_BODY = 16 * 1024
"""Bytes of a request from which its text is tokenised beside the loop; below it takes a few milliseconds."""
LONG_RESPONSE = 200
"""Tokens of a response from which it is judged beside the loop; below it takes a few milliseconds."""

_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="hguard-offload")


async def offload(function: Callable[..., T], *arguments: object, when: bool) -> T:
    """Call a function that touches nothing of the event loop.

    Args:
        function: What to call.
        arguments: Of the call.
        when: Whether it takes long; else it is called right here, which costs no change of threads.
    """
    if not when:
        return function(*arguments)
    return await asyncio.get_running_loop().run_in_executor(_threads, copy_context().run, function, *arguments)
