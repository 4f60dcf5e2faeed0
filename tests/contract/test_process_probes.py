"""`python -m service` killed and started again: it serves what was switched to last."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from service.fake_probe import fake_artifact
from tests.probe_library import SETTINGS, activate, list_states, rollback, turned, write_library
from tests.serving import QUESTION, wait_until

pytestmark = pytest.mark.slow


@asynccontextmanager
async def run_service(folder, **settings):
    """A process that is killed at the end, without a chance to tidy up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "HGUARD_ENGINE": "fake",
        "HGUARD_PORT": str(port),
        "HGUARD_PROBES_DIR": str(folder),
        "HGUARD_ADMIN_KEY_SHA256": SETTINGS["admin_key_sha256"],
        "PYTHONPATH": os.getcwd(),
        **settings,
    }
    running = subprocess.Popen([sys.executable, "-m", "service"], env=environment, cwd=folder)
    address = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        try:
            return httpx.get(f"{address}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        await wait_until(is_up, seconds=120)
        async with httpx.AsyncClient(base_url=address) as client:
            yield client
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()


async def test_hazard_a_crash_brings_back_the_old_probe(tmp_path):
    made = [turned(fake_artifact(), version) for version in ("1", "2", "3")]
    made[1] = replace(made[1], probe=replace(made[1].probe, threshold=0.9))
    write_library(tmp_path, *made)
    async with run_service(tmp_path) as client:
        assert (await activate(client, made[0].probe)).json()["is_kept"]
        assert (await activate(client, made[1].probe, mode="shadow")).json()["is_kept"]
        assert (await activate(client, made[2].probe, mode="canary", percent=100)).json()["is_kept"]
        states = await list_states(client)
    assert states == {"1": "active", "2": "shadow", "3": "canary"}
    async with run_service(tmp_path) as client:
        assert await list_states(client) == states
        answer = (await client.post("/generate", json={"prompt": QUESTION})).json()
        assert answer["choices"][0]["guard"]["probe"]["version"] == "3"
        assert (await rollback(client, "fake")).json()["probe"]["version"] == "0"
    async with run_service(tmp_path, HGUARD_PROBE="fake@2") as client:  # the operator has decided anew
        assert await list_states(client) == {"2": "active", "1": "available", "3": "available"}
