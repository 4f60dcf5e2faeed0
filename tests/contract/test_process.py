"""`python -m service` as a process: comes up, answers, and lets a running stream finish when it is told to end."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from tests.serving import QUESTION, read_events, wait_until

pytestmark = pytest.mark.slow


SERVICE = ("-m", "service")
LOADS = """
import sys, time
import service.lifecycle
from service.__main__ import main

def load(_):
    while True:  # Python at work, as while weights are read: the interpreter's lock is wanted by others, too
        sum(range(10_000))

service.lifecycle.load_engine = load
sys.exit(main([]))
"""


@pytest.fixture
async def process(tmp_path, request):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "HGUARD_ENGINE": "fake",
        "HGUARD_PORT": str(port),
        "HGUARD_FAKE_STEP_S": "0.05",
        "PYTHONPATH": os.getcwd(),
    }
    running = subprocess.Popen([sys.executable, *request.param], env=environment, cwd=tmp_path)
    address = f"http://127.0.0.1:{port}"
    try:
        await wait_until(lambda: reasons(address) is not None, seconds=120)
        yield running, address
    finally:
        running.kill()
        running.wait()


def reasons(address):
    """Of /readyz; None where nobody listens."""
    try:
        return httpx.get(f"{address}/readyz").json()["reasons"]
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("process", [SERVICE], indirect=True)
async def test_sigterm_lets_a_stream_finish(process):
    running, address = process
    await wait_until(lambda: reasons(address) == [], seconds=120)
    text = ""
    async with (
        httpx.AsyncClient(base_url=address) as client,
        client.stream("POST", "/generate", json={"prompt": QUESTION, "stream": True}) as answer,
    ):
        async for line in answer.aiter_lines():
            text += line + "\n"
            if line == "id: 2":
                running.send_signal(signal.SIGTERM)
    events = read_events(text)
    assert events[-1][0] == "done"
    assert events[-1][2]["choices"][0]["text"] == "The answer is Paris."
    assert running.wait(60) == 0


@pytest.mark.parametrize("process", [("-c", LOADS)], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_service_that_still_loads(process, number):
    running, address = process
    await wait_until(lambda: reasons(address)[:1] == ["model: is being loaded"], seconds=30)
    running.send_signal(number)
    assert running.wait(30) == 0
