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


@pytest.fixture
async def process(tmp_path):
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
    running = subprocess.Popen([sys.executable, "-m", "service"], env=environment, cwd=tmp_path)
    address = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        try:
            return httpx.get(f"{address}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        await wait_until(is_up, seconds=120)
        yield running, address
    finally:
        running.kill()
        running.wait()


async def test_sigterm_lets_a_stream_finish(process):
    running, address = process
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
