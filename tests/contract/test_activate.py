"""POST /probes/{name}/activate while requests run: no response mixes two probes."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from tests.contract.asking import ask, close
from tests.contract.switching import ask_events, ask_suppressed, check_switches, lasting, versions
from tests.probe_library import SETTINGS, activate, turned, write_library
from tests.serving import make_parts, wait_until


@pytest.fixture
def slow_parts(parts, engine_name):
    """Requests last long enough for several switches."""
    if engine_name == "fake":
        parts.engine.step_seconds = 0.002
    return parts


async def test_hazard_a_response_mixes_two_probes(serve, slow_parts, tmp_path):
    first = slow_parts.artifact
    second = turned(first, "2.turned")
    client = await serve(slow_parts, probes_dir=write_library(tmp_path, first, second), **SETTINGS)
    await check_switches(client, first, second, close)


async def test_the_old_probe_serves_until_the_new_one_is_proved(serve, slow_parts, tmp_path, monkeypatch):
    old, new = slow_parts.artifact, turned(slow_parts.artifact, "2.turned")
    client = await serve(slow_parts, probes_dir=write_library(tmp_path, new), **SETTINGS)
    before = lasting(await ask(client))
    audit, reached, is_let = slow_parts.engine.audit, asyncio.Event(), asyncio.Event()

    async def waiting(*args, **options):
        reached.set()
        await is_let.wait()
        return await audit(*args, **options)

    monkeypatch.setattr(slow_parts.engine, "audit", waiting)
    switching = asyncio.create_task(activate(client, new.probe))
    await reached.wait()
    assert close(lasting(await ask(client)), before)
    is_let.set()
    answer = await switching
    assert answer.json()["probe"]["version"] == "2.turned"
    assert versions(await ask(client)) == {"2.turned"}
    entries = (await client.get("/probes")).json()["probes"]
    assert [entry["version"] for entry in entries if entry["state"] == "active"] == ["2.turned"]
    assert old.probe.version != "2.turned"


def shifted(artifact):
    scores = tuple(np.roll(row, 1) for row in artifact.golden.scores)
    return replace(artifact, golden=replace(artifact.golden, scores=scores))


def of_another_model(artifact):
    return replace(artifact, model=replace(artifact.model, architecture="Other"))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (shifted, "standard deviations"),
        (of_another_model, "architecture"),
        (lambda artifact: replace(artifact, probe=replace(artifact.probe, locator="oracle")), "locator 'oracle'"),
    ],
)
async def test_hazard_a_refused_probe_leaves_its_heads_behind(serve, parts, tmp_path, spoil, reason):
    good, bad = turned(parts.artifact, "2.turned"), spoil(turned(parts.artifact, "3.bad"))
    client = await serve(parts, probes_dir=write_library(tmp_path, good, bad), **SETTINGS)
    before = lasting(await ask(client))
    for _ in range(3):
        answer = await activate(client, bad.probe)
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "probe_refused"
        assert reason in answer.json()["error"]["message"]
    assert close(lasting(await ask(client)), before)
    metrics = (await client.get("/metrics")).text
    assert 'hguard_probe_loads_total{result="refused"} 3.0' in metrics
    assert "hguard_golden_trace_ok 1.0" in metrics
    assert (await client.get("/readyz")).status_code == 200
    assert (await activate(client, good.probe)).status_code == 200
    assert versions(await ask(client)) == {"2.turned"}


async def test_hazard_heads_go_while_a_request_still_needs_them(tmp_path, serve, monkeypatch):
    """They are held from the plan of a request to the last byte of its answer, streams included, and not longer."""
    parts, holders = make_parts(step_seconds=0.01), {}

    class Hold:
        def __init__(self, heads):
            self.name = float(heads.bank.weights[0, 0])

        def __enter__(self):
            holders[self.name] = holders.get(self.name, 0) + 1

        def __exit__(self, *_):
            holders[self.name] -= 1

    monkeypatch.setattr(parts.engine, "hold_heads", Hold)
    new = turned(parts.artifact, "2.turned")
    one, other = (float(artifact.probe.weights[0]) for artifact in (parts.artifact, new))
    client = await serve(parts, probes_dir=write_library(tmp_path, new), **SETTINGS)
    assert holders == {one: 1}
    running = [asyncio.create_task(way(client)) for way in (ask, ask_suppressed, ask_events)]
    await wait_until(lambda: parts.engine.running == 3)
    assert holders == {one: 4}
    assert (await activate(client, new.probe)).status_code == 200
    assert holders == {one: 3, other: 1}
    await asyncio.gather(*running)
    assert (await client.post("/generate", json={"prompt": "x", "model": "another"})).status_code == 404
    assert holders == {one: 0, other: 1}
