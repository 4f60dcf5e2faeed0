"""An engine that hangs without an error is seen: /readyz fails with the reason, and recovers with the engine."""

import asyncio

import httpx
import pytest

from service.engines.fake import FakeEngine
from service.engines.fake_probe import fake_artifact
from service.lifecycle import Parts
from tests.contract.test_disconnect import metric
from tests.serving import QUESTION, make_parts, serve_in_process, serve_on_port

STALL_S = 0.3


class PausingEngine(FakeEngine):
    """Stands still while told to, and then goes on."""

    def __init__(self, **options):
        super().__init__(**options)
        self.may_go = asyncio.Event()
        self.may_go.set()

    async def _step(self, at):
        await self.may_go.wait()
        await super()._step(at)


async def becomes(client, status, seconds=10.0):
    for _ in range(int(seconds / 0.02)):
        ready = await client.get("/readyz")
        if ready.status_code == status:
            return ready.json()
        await asyncio.sleep(0.02)
    raise AssertionError(f"/readyz is not {status}")


async def test_ready_again_once_tokens_come_again():
    engine = PausingEngine(step_seconds=0.02)
    async with serve_in_process(Parts(engine, fake_artifact()), stall_s=STALL_S) as client:
        asked = asyncio.ensure_future(client.post("/generate", json={"prompt": QUESTION}))
        while not engine.running:
            await asyncio.sleep(0.005)
        engine.may_go.clear()
        ready = await becomes(client, 503)
        assert ready["status"] == "not_ready"
        assert "engine: no token" in ready["reasons"][0]
        assert "HGUARD_STALL_S" in ready["reasons"][0]
        assert await metric(client, "hguard_engine_stalled") == 1
        refused = await client.post("/generate", json={"prompt": QUESTION})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        assert (await client.get("/livez")).status_code == 200
        engine.may_go.set()
        await becomes(client, 200)
        assert (await asked).status_code == 200
        assert await metric(client, "hguard_engine_stalled") == 0


@pytest.mark.parametrize("path", ["/generate", "/score"])
async def test_hazard_every_request_is_given_up_and_nothing_is_left_that_could_bring_a_token(path):
    parts = make_parts()
    with serve_on_port(parts, stall_s=STALL_S) as address:
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            parts.engine.fault, parts.engine.fault_at = "hang", 0
            asked = {"prompt": QUESTION, "timeout_s": STALL_S / 3}
            if path == "/score":
                asked["response"] = "Paris"
            # Each is given up long before the limit: only all of them together are a stall.
            for _ in range(20):
                if (await client.post(path, json=asked)).status_code == 503:
                    break
            await becomes(client, 503)
            await asyncio.sleep(2 * STALL_S)
            assert (await client.get("/readyz")).status_code == 503
            assert parts.engine.running <= 1  # a golden trace may be on its way, and hangs, too
            parts.engine.fault = "none"
            await becomes(client, 200)
            assert (await client.post("/generate", json={"prompt": QUESTION})).status_code == 200


async def test_idle_is_no_stall():
    async with serve_in_process(make_parts(), stall_s=0.05) as client:
        for _ in range(3):
            await asyncio.sleep(0.1)
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.post("/generate", json={"prompt": QUESTION})).status_code == 200


async def test_waiting_for_slow_steps_is_no_stall():
    async with serve_in_process(make_parts(step_seconds=0.1), stall_s=0.4) as client:
        assert (await client.post("/generate", json={"prompt": QUESTION})).status_code == 200
        assert await metric(client, "hguard_engine_stalled") == 0


async def test_a_watchdog_that_is_off_says_nothing():
    parts = make_parts()
    async with serve_in_process(parts, stall_s=0) as client:
        parts.engine.fault = "hang"
        answer = await client.post("/generate", json={"prompt": QUESTION, "timeout_s": 0.3})
        assert answer.status_code == 504
        assert (await client.get("/readyz")).status_code == 200
