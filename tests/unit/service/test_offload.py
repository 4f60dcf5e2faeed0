"""Work beside the event loop: what hangs there holds up neither its caller nor the end of the process."""

import asyncio
import subprocess
import sys
import threading
from contextvars import ContextVar

import pytest

from service.choices.offload import DaemonThreads

NAME = ContextVar("name", default="")


async def test_a_result_an_error_and_the_context_come_back():
    threads = DaemonThreads(2, "test")
    NAME.set("request")
    assert await threads.run(lambda a, b: (NAME.get(), a + b), 1, 2) == ("request", 3)
    with pytest.raises(KeyError):
        await threads.run({}.__getitem__, "missing")
    assert threads.n_unfinished == 0 or threads.n_unfinished == 1  # its thread counts a moment later


async def test_hazard_what_hangs_starves_its_caller_for_ever():
    threads, may_end = DaemonThreads(1, "test"), threading.Event()
    for _ in range(2):  # the second never begins
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await threads.run(may_end.wait)
    may_end.set()
    assert await threads.run(lambda: "next") == "next"


def test_hazard_what_hangs_keeps_the_process_alive():
    script = (
        "import asyncio, threading\n"
        "from service.choices.offload import DaemonThreads\n"
        "async def main():\n"
        "    try:\n"
        "        async with asyncio.timeout(0.1):\n"
        "            await DaemonThreads(1, 'x').run(threading.Event().wait)\n"
        "    except TimeoutError:\n"
        "        print('given up')\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "given up\n"
