"""`python -m service` killed and started again: it serves what was switched to last."""

from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from service.engines.fake_probe import fake_artifact
from tests.probe_library import SETTINGS, activate, list_states, rollback, turned, write_library
from tests.running_service import running_service
from tests.serving import QUESTION

pytestmark = pytest.mark.slow


@asynccontextmanager
async def run_service(folder, **settings):
    """A process that is killed at the end, without a chance to tidy up."""
    with running_service(folder, probes_dir=folder, **SETTINGS, **settings) as service:
        async with httpx.AsyncClient(base_url=service.address) as client:
            yield client


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
    async with run_service(tmp_path, probe="fake@2") as client:  # the operator has decided anew
        assert await list_states(client) == {"2": "active", "1": "available", "3": "available"}
