"""Feedback of `python -m service` as a process, in the user's own folder."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.serving import QUESTION, wait_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_a_label_that_was_taken_outlives_the_process(tmp_path, end):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "HGUARD_FEEDBACK_URL"},
        "HGUARD_ENGINE": "fake",
        "HGUARD_PORT": str(port),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    running = subprocess.Popen([sys.executable, "-m", "service"], env=environment, cwd=tmp_path)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}")

    def is_up() -> bool:
        try:
            return client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        await wait_until(is_up, seconds=50)
        response_id = client.post("/generate", json={"prompt": QUESTION}).json()["id"]
        assert client.post("/feedback", json={"id": response_id, "label": "faithful"}).status_code == 200
        running.send_signal(end)
        assert running.wait(30) == (0 if end == signal.SIGTERM else -end)
    finally:
        client.close()
        running.kill()
        running.wait()
    exported = subprocess.run(
        [sys.executable, "-m", "service.feedback_export", "export"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = map(json.loads, exported.stdout.splitlines())
    assert (row["id"], row["label"]) == (response_id, "faithful")
