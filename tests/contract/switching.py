"""Requests of every kind while two probes alternate, for the engines of every suite."""

import asyncio

import pytest

from tests.contract.asking import ask, ask_stream
from tests.probe_library import activate
from tests.serving import QUESTION

PASSING = ("id", "created", "timing", "request_id")
"""What differs between two answers to one request."""


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
