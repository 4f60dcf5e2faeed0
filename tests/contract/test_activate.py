"""POST /probes/activate while requests run: no response mixes two probes."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from tests.contract.test_generate import ask, ask_stream, close
from tests.probe_library import SETTINGS, activate, turned, write_library
from tests.serving import QUESTION, make_parts, wait_until

PASSING = ("id", "created", "timing", "request_id")
"""What differs between two answers to one request."""


@pytest.fixture
def slow_parts(parts, engine_name):
    """Requests last long enough for several switches."""
    if engine_name == "fake":
        parts.engine.step_seconds = 0.002
    return parts


async def ask_suppressed(client):
    """Two generations, between which the probe may change."""
    return await ask(client, guard={"policy": "suppress", "threshold": 1e-6, "explain": True})


async def ask_sampled(client):
    return await ask(client, sampling={"temperature": 1.0, "seed": 3, "n": 2}, guard={"alpha": 0.5})


async def ask_score(client):
    answer = await client.post("/score", json={"prompt": QUESTION, "response": "It is Paris."})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ask_events(client):
    return {"events": await ask_stream(client)}


WAYS = (ask, ask_suppressed, ask_sampled, ask_score, ask_events)


def lasting(found):
    """An answer without what differs each time."""
    if isinstance(found, dict):
        return {key: lasting(value) for key, value in found.items() if key not in PASSING}
    return [lasting(value) for value in found] if isinstance(found, list | tuple) else found


def versions(found):
    """Of all probes that an answer names."""
    if isinstance(found, dict):
        own = {found["probe"]["version"]} if isinstance(found.get("probe"), dict) else set()
        return own.union(*map(versions, found.values()))
    return set().union(*map(versions, found)) if isinstance(found, list | tuple) else set()


async def test_hazard_a_response_mixes_two_probes(serve, slow_parts, tmp_path):
    first = slow_parts.artifact
    second = turned(first, "2.turned")
    client = await serve(slow_parts, probes_dir=write_library(tmp_path, first, second), **SETTINGS)
    await check_switches(client, first, second, close)


async def check_switches(client, first, second, are_close):
    """Requests of every kind run while two probes alternate: each has the numbers of the probe that it names."""
    wanted = {}
    for artifact in (first, second):
        assert (await activate(client, artifact.probe)).status_code == 200
        for way in WAYS:
            wanted[way, artifact.probe.version] = lasting(await way(client))
    logits = [wanted[ask, artifact.probe.version]["choices"][0]["guard"]["logit"] for artifact in (first, second)]
    intercept = first.probe.intercept
    assert logits[1] - intercept == pytest.approx(intercept - logits[0], abs=1e-3)  # it is the other probe's number
    assert abs(logits[0] - logits[1]) > 0.1

    is_over = asyncio.Event()

    async def switch():
        while not is_over.is_set():
            for artifact in (first, second):
                assert (await activate(client, artifact.probe)).status_code == 200

    async def keep_asking(way):
        return [(way, lasting(await way(client))) for _ in range(6)]

    switching = asyncio.create_task(switch())
    answers = [answer for some in await asyncio.gather(*map(keep_asking, WAYS * 2)) for answer in some]
    is_over.set()
    await switching
    seen = set()
    for way, found in answers:
        (version,) = versions(found)
        seen.add(version)
        assert are_close(found, wanted[way, version]), (way.__name__, version)
    assert seen == {first.probe.version, second.probe.version}


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
