"""A client that leaves frees its place within one step: a real server, real sockets."""

import asyncio
import time

import httpx
import pytest

from tests.contract.tiny import make_tiny_parts
from tests.serving import QUESTION, make_parts, read_events, serve_on_port, wait_until

STEP_SECONDS = 0.05
LONG = {"prompt": QUESTION, "sampling": {"max_tokens": 400, "n": 2}}


@pytest.fixture(scope="module", params=["fake", "transformers"])
def server(request):
    """A server whose steps take a while, its engine, and how many steps it made."""
    if request.param == "fake":
        parts = make_parts(step_seconds=STEP_SECONDS, reply=lambda _: "word " * 100)

        def steps():
            return parts.engine.steps_total / 2  # of two sequences

    else:
        parts = make_tiny_parts(request.getfixturevalue("tiny_folder"), "own")
        model, passes = parts.engine.model, []
        model.lm_head.weight.data[256] = 0  # never the likeliest: no response ends early
        model.register_forward_pre_hook(lambda *_: passes.append(time.sleep(STEP_SECONDS)))

        def steps():
            return len(passes)

    with serve_on_port(parts) as address:
        yield address, parts.engine, steps


async def metric(client, name):
    lines = (await client.get("/metrics")).text.splitlines()
    return float(next((line.split()[-1] for line in lines if line.startswith(name + " ")), 0))


async def wait_until_metric(client, name, value):
    for _ in range(200):
        if await metric(client, name) == value:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{name} is not {value}")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_slot_within_a_step(server, stream):
    address, engine, steps = server
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
        made = steps()
        await wait_until(lambda: engine.running == 0)
        assert steps() - made <= 2  # the one under way, and the one that began while the news was on its way
        await wait_until_metric(client, "hguard_client_disconnects_total", left + 1)
        assert await metric(client, "hguard_requests_running") == 0


async def test_tokens_arrive_as_they_are_made(server):
    address, engine, _ = server
    async with httpx.AsyncClient(base_url=address) as client:
        body = {"prompt": QUESTION, "sampling": {"max_tokens": 400}, "stream": True}
        async with client.stream("POST", "/generate", json=body) as answer:
            n_events = 0
            async for line in answer.aiter_lines():
                n_events += line.startswith("event: token")
                if n_events == 5:
                    break
            assert engine.running == 1
    await wait_until(lambda: engine.running == 0)


async def test_a_stream_that_is_read_to_its_end_is_no_disconnect(server):
    address, _, _ = server
    async with httpx.AsyncClient(base_url=address) as client:
        left = await metric(client, "hguard_client_disconnects_total")
        for _ in range(5):
            body = {"prompt": QUESTION, "sampling": {"max_tokens": 2}, "stream": True}
            assert read_events((await client.post("/generate", json=body)).text)[-1][0] == "done"
            assert (await client.post("/generate", json={**body, "stream": False})).status_code == 200
        assert await metric(client, "hguard_client_disconnects_total") == left


async def test_health_is_answered_while_requests_run(server):
    address, engine, _ = server
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
