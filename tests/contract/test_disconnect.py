"""A client that leaves frees its place within one step: a real server, real sockets."""

import httpx
import pytest

from tests.serving import QUESTION, make_parts, serve_on_port, wait_until

STEP_SECONDS = 0.05
LONG = {"prompt": QUESTION, "sampling": {"max_tokens": 500, "n": 2}}


@pytest.fixture(scope="module")
def server():
    parts = make_parts(step_seconds=STEP_SECONDS, reply=lambda _: "word " * 100)
    with serve_on_port(parts) as address:
        yield address, parts.engine


async def metric(client, name):
    lines = (await client.get("/metrics")).text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(name + " ")))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_slot_within_a_step(server, stream):
    address, engine = server
    async with httpx.AsyncClient(base_url=address) as client:
        left = await metric(client, "hguard_client_disconnects_total")
        async with httpx.AsyncClient(base_url=address) as leaving:
            if stream:
                async with leaving.stream("POST", "/generate", json={**LONG, "stream": True}) as answer:
                    lines = answer.aiter_lines()  # httpx hangs up when the iterator is collected
                    await anext(lines)
                    await wait_until(lambda: engine.running == 2)
            else:
                with pytest.raises(httpx.ReadTimeout):
                    await leaving.post("/generate", json=LONG, timeout=4 * STEP_SECONDS)
                assert engine.running <= 2
        steps = engine.steps_total
        await wait_until(lambda: engine.running == 0, seconds=2)
        assert engine.steps_total - steps <= 2 * 2
        assert await metric(client, "hguard_client_disconnects_total") == left + 1
        assert await metric(client, "hguard_requests_running") == 0


async def test_tokens_arrive_as_they_are_made(server):
    address, engine = server
    async with httpx.AsyncClient(base_url=address) as client:
        body = {"prompt": QUESTION, "sampling": {"max_tokens": 500}, "stream": True}
        async with client.stream("POST", "/generate", json=body) as answer:
            n_events = 0
            async for line in answer.aiter_lines():
                n_events += line.startswith("event: token")
                if n_events == 5:
                    break
            assert engine.running == 1
    await wait_until(lambda: engine.running == 0)


async def test_health_is_answered_while_requests_run(server):
    address, engine = server
    async with (
        httpx.AsyncClient(base_url=address) as client,
        client.stream("POST", "/generate", json={**LONG, "stream": True}) as answer,
    ):
        lines = answer.aiter_lines()
        await anext(lines)
        await wait_until(lambda: engine.running == 2)
        assert (await client.get("/readyz")).status_code == 200
        assert await metric(client, "hguard_requests_running") == 1
    await wait_until(lambda: engine.running == 0)
