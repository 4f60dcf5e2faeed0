"""Minutes of everything at once, clients that misbehave included: memory, descriptors and tasks stay flat.

`make soak` takes five minutes (`SOAK_SECONDS`); without that variable it is the short version for CI.
"""

import asyncio
import collections
import contextlib
import os
import random
import statistics
import time
from pathlib import Path

import httpx
import pytest

from tests.contract.test_slow_clients import ask_and_read_nothing, vanish
from tests.running_service import running_service
from tests.serving import QUESTION

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
MEMORY_LIMIT = 24 * 2**20
"""Growth from the first half, after the warm-up, to the second."""


class Load:
    """Workers of every kind, and what their answers were."""

    def __init__(self, address, client):
        self.address, self.client = address, client
        self.counts, self.random = collections.Counter(), random.Random(0)

    async def generate(self):
        stream = self.random.random() < 0.5
        guard = {"return_tokens": True, "policy": self.random.choice(["annotate", "flag", "off", "suppress"])}
        sampling = {"max_tokens": 30, "n": self.random.randint(1, 3)}
        asked = {"prompt": QUESTION, "sampling": sampling, "guard": guard, "stream": stream}
        answer = await self.client.post("/generate", json=asked)
        self.counts[answer.status_code] += 1
        if answer.status_code == 200 and stream:
            assert answer.text.count("event: done") == 1, answer.text[-500:]

    async def score(self):
        answer = await self.client.post("/score", json={"prompt": QUESTION, "response": "It is Paris. " * 30})
        self.counts[answer.status_code] += 1

    async def send_nonsense(self):
        answer = await self.client.post("/generate", content=b"{", headers={"content-type": "application/json"})
        assert answer.status_code == 400
        answer = await self.client.post("/generate", json={"prompt": "word " * 20_000})
        assert answer.status_code in (422, 429)

    async def run_out_of_time(self):
        answer = await self.client.post("/generate", json={"prompt": QUESTION, "timeout_s": 0.05})
        assert answer.status_code in (504, 429)
        self.counts[answer.status_code] += 1

    async def leave(self):
        with contextlib.suppress(httpx.TimeoutException):
            stream = self.random.random() < 0.5
            await self.client.post("/generate", json={"prompt": QUESTION, "stream": stream}, timeout=0.1)
        self.counts["left"] += 1

    async def read_nothing(self):
        slow = await asyncio.to_thread(ask_and_read_nothing, self.address, stream=True)
        await asyncio.sleep(1)
        vanish(slow)
        self.counts["vanished"] += 1

    async def keep(self, work, until, pause):
        while time.monotonic() < until:
            await work()
            await asyncio.sleep(pause * self.random.random())

    async def run(self, seconds):
        until = time.monotonic() + seconds
        kinds = [(self.generate, 12, 0.02), (self.score, 3, 0.05), (self.send_nonsense, 1, 0.5)]
        kinds += [(self.run_out_of_time, 2, 0.2), (self.leave, 3, 0.2), (self.read_nothing, 2, 0.2)]
        async with asyncio.TaskGroup() as group:
            for work, n, pause in kinds:
                for _ in range(n):
                    group.create_task(self.keep(work, until, pause))


def resident_bytes(process):
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


async def at_rest(service):
    """(descriptors, tasks) once nothing runs any more; the connection that asks is one of them."""
    for _ in range(100):
        await asyncio.sleep(0.1)
        if service.metric("requests_running") == 0 and service.metric("requests_waiting") == 0:
            break
    await asyncio.sleep(1)
    return descriptors(service.process), service.metric("event_loop_tasks")


@pytest.mark.slow
async def test_memory_descriptors_and_tasks_stay_flat(tmp_path):
    settings = {"fake_step_s": 0.01, "max_concurrent": 8, "queue_size": 6}
    with running_service(tmp_path, **settings) as service:
        limits = httpx.Limits(max_connections=60, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=service.address, timeout=30, limits=limits) as client:
            load = Load(service.address, client)
            await load.run(SECONDS / 4)
            rest, memory = await at_rest(service), []
            for _ in range(8):
                await load.run(SECONDS * 3 / 4 / 8)
                memory.append(resident_bytes(service.process))
            end = await at_rest(service)
            assert (await client.get("/readyz")).status_code == 200
        served = service.metric("scored_responses_total")
    grown = statistics.median(memory[4:]) - statistics.median(memory[:4])
    print(  # noqa: T201
        f"{SECONDS:g} s, {dict(load.counts)}, {served:.0f} responses scored; resident MiB "
        f"{[round(value / 2**20, 1) for value in memory]}; at rest (descriptors, tasks): {rest}, then {end}"
    )
    assert load.counts[200] > 10
    assert load.counts[429] > 0
    assert not any(isinstance(code, int) and code >= 500 and code != 504 for code in load.counts)
    assert end == rest
    assert grown < MEMORY_LIMIT
