"""The end of a process: it says so while its listener answers, finishes what it took, and ends with exit code 0."""

import asyncio
import signal
import time

import httpx
import pytest

from tests.running_service import running_service
from tests.serving import QUESTION, read_events, wait_until

pytestmark = pytest.mark.slow
N_STREAMS = 20


def body(**changes):
    return {"prompt": QUESTION, "stream": True, "guard": {"return_tokens": True}, **changes}


async def read_stream(client, begun=None, **changes):
    text = ""
    async with client.stream("POST", "/generate", json=body(**changes)) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            text += line + "\n"
            if begun is not None and line.startswith("event: token"):
                begun.add(asyncio.current_task())
    return read_events(text)


def shown(events):
    """What a client has of an answer, without the name and the times of this one."""
    return [(name, at, data) for name, at, data in events if name in ("token", "span", "guard")]


def client_of(service):
    return httpx.AsyncClient(base_url=service.address, timeout=60, limits=httpx.Limits(max_connections=100))


async def test_20_streams_through_a_sigterm_are_those_of_an_undisturbed_run(tmp_path):
    settings = {"fake_step_s": 0.15, "max_concurrent": 12, "drain_s": 30}  # eight of them wait when the signal comes
    with running_service(tmp_path, **settings) as service:
        async with client_of(service) as client:
            undisturbed = await read_stream(client)
            begun = set()
            streams = [asyncio.ensure_future(read_stream(client, begun)) for _ in range(N_STREAMS)]
            await wait_until(lambda: len(begun) == 12, 20)
            assert service.metric("requests_waiting") == N_STREAMS - 12
            assert service.metric("draining") == 0
            service.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.1)
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "draining")
            assert "draining" in ready.json()["reasons"][0]
            assert (await client.get("/livez")).status_code == 200
            assert service.metric("draining") == 1
            for path, asked in (("/generate", body()), ("/score", {"prompt": QUESTION, "response": "Paris"})):
                refused = await client.post(path, json=asked)
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            found = await asyncio.gather(*streams)
        assert await asyncio.to_thread(service.process.wait, 20) == 0
    assert all(events[-1][0] == "done" for events in found)
    assert len(shown(undisturbed)) > 20
    assert all(shown(events) == shown(undisturbed) for events in found)


async def test_at_the_deadline_each_stream_ends_with_one_error_event(tmp_path):
    with running_service(tmp_path, fake_step_s=0.5, max_concurrent=3, drain_s=1.5) as service:
        async with client_of(service) as client:
            begun = set()
            streams = [asyncio.ensure_future(read_stream(client, begun)) for _ in range(5)]
            await wait_until(lambda: len(begun) == 3, 20)
            wide = asyncio.ensure_future(read_stream(client, sampling={"n": 3}))
            plain = asyncio.ensure_future(client.post("/generate", json=body(stream=False)))
            await wait_until(lambda: service.metric("requests_waiting") == 4, 20)
            began = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            found = [*await asyncio.gather(*streams), await wide]
            answer = await plain
            took = time.monotonic() - began
        assert await asyncio.to_thread(service.process.wait, 20) == 0
    for events in found:
        assert [name for name, _, _ in events if name in ("done", "error")] == ["error"]
        assert events[-1][0] == "error"
        assert events[-1][2]["error"]["code"] == "draining"
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    assert 1.4 < took < 10


async def test_a_second_signal_ends_at_once(tmp_path):
    with running_service(tmp_path, fake_step_s=2, drain_s=600) as service:
        async with client_of(service) as client:
            stream = asyncio.ensure_future(read_stream(client))
            await wait_until(lambda: service.metric("requests_running") == 1)
            service.process.send_signal(signal.SIGTERM)
            await wait_until(lambda: service.status("/readyz") == 503)
            assert service.process.poll() is None
            service.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(service.process.wait, 2) == -signal.SIGTERM
            with pytest.raises(httpx.TransportError):
                await stream


async def test_an_idle_server_says_draining_before_it_goes(tmp_path):
    with running_service(tmp_path) as service:
        service.process.send_signal(signal.SIGINT)
        await wait_until(lambda: service.status("/readyz") == 503)
        assert await asyncio.to_thread(service.process.wait, 20) == 0
