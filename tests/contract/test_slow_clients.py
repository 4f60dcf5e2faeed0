"""Clients that do not read, and clients that vanish: neither holds a place, and neither stalls anybody else."""

import asyncio
import json
import os
import socket
import struct
import time

import httpx
import pytest

from tests.contract.test_disconnect import metric, wait_until_metric
from tests.serving import QUESTION, make_parts, read_events, serve_on_port, wait_until

N_TOKENS = 1000
N_SLOW = 8
DONE = 'hguard_requests_total{action="none",code="200",route="/generate"}'


@pytest.fixture
def server():
    parts = make_parts(reply=lambda _: "word " * (N_TOKENS // 5), locator="response")
    with serve_on_port(parts, send_buffer=4096, max_concurrent=2 * N_SLOW) as address:
        yield address, parts.engine


def ask_and_read_nothing(address, **changes):
    """A connection whose window is small, so that what is not read stays with the server."""
    host, port = address.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    asked = {"prompt": QUESTION, "sampling": {"max_tokens": N_TOKENS}, "guard": {"return_tokens": True}, **changes}
    data = json.dumps(asked).encode()
    head = (
        f"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    client.sendall(head.encode() + data)
    return client


def vanish(client):
    """Reset, as where a machine is switched off and another takes its address."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def read_rest(client):
    """The chunks of a response, until its end."""
    client.settimeout(30)
    found = b""
    while not found.endswith(b"0\r\n\r\n"):
        found += client.recv(65536)
    text = found.split(b"\r\n\r\n", 1)[1]
    parts = []
    while text:
        size, _, text = text.partition(b"\r\n")
        parts.append(text[: int(size, 16)])
        text = text[int(size, 16) + 2 :]
    return b"".join(parts).decode()


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_clients_that_do_not_read_stall_nobody_and_cost_bounded_memory(server):
    address, engine = server
    async with httpx.AsyncClient(base_url=address, timeout=30) as client:
        short = {"prompt": QUESTION, "sampling": {"max_tokens": 20}}
        assert (await client.post("/generate", json=short)).status_code == 200
        before = resident_bytes()
        slow = [ask_and_read_nothing(address, stream=True) for _ in range(N_SLOW)]
        try:
            await wait_until(lambda: engine.running >= N_SLOW)
            began = time.perf_counter()
            assert (await client.post("/generate", json=short)).status_code == 200
            took = time.perf_counter() - began
            # Their generation goes on without a reader, and gives the place back at its end.
            await wait_until(lambda: engine.running == 0, 30)
            await wait_until_metric(client, "hguard_requests_running", 0)
            assert await metric(client, DONE) == 2  # their responses have not gone out
            grown = resident_bytes() - before
            assert grown < N_SLOW * N_TOKENS * 8192
            began = time.perf_counter()
            assert (await client.post("/generate", json=short)).status_code == 200
            assert time.perf_counter() - began < 5
            texts = [await asyncio.to_thread(read_rest, one) for one in slow]
        finally:
            for one in slow:
                one.close()
    assert took < 30
    for text in texts:
        events = read_events(text)
        assert events[-1][0] == "done"
        assert [data["i"] for name, _, data in events if name == "token"] == list(range(N_TOKENS))


async def test_a_stream_that_is_never_read_is_given_up(server, monkeypatch):
    monkeypatch.setattr("service.routes.stream.SEND_TIMEOUT_SECONDS", 0.3)
    address, _ = server
    async with httpx.AsyncClient(base_url=address, timeout=30) as client:
        slow = ask_and_read_nothing(address, stream=True)
        try:
            await wait_until_metric(client, "hguard_client_disconnects_total", 1)
            await wait_until_metric(client, DONE.replace("200", "499"), 1)
            await wait_until_metric(client, "hguard_requests_running", 0)
        finally:
            slow.close()


async def test_a_json_answer_that_is_never_read_holds_nothing_but_its_bytes(server):
    address, engine = server
    async with httpx.AsyncClient(base_url=address, timeout=30) as client:
        slow = ask_and_read_nothing(address)
        try:
            await wait_until_metric(client, DONE, 1)
            assert engine.running == 0
            assert await metric(client, "hguard_requests_running") == 0
        finally:
            slow.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_clients_that_vanish_free_their_places_within_a_step(stream):
    parts = make_parts(step_seconds=0.1, reply=lambda _: "word " * 200)
    with serve_on_port(parts, max_concurrent=4) as address:
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            gone = [ask_and_read_nothing(address, stream=stream) for _ in range(6)]
            await wait_until(lambda: parts.engine.running == 4)
            await wait_until_metric(client, "hguard_requests_waiting", 2)
            for one in gone[4:]:
                vanish(one)
            await wait_until_metric(client, "hguard_requests_waiting", 0)
            made = parts.engine.steps_total
            for one in gone[:4]:
                vanish(one)
            await wait_until(lambda: parts.engine.running == 0)
            assert parts.engine.steps_total - made <= 4 * 2  # the step under way, and one that began meanwhile
            await wait_until_metric(client, "hguard_client_disconnects_total", 6)
            assert await metric(client, "hguard_requests_running") == 0
