"""A canary answers its share, the same requests each time, and every answer says which probe it has."""

import asyncio
from dataclasses import replace

import pytest

from service.engines.base import RowEvidence
from service.probe_roles.places import is_in_share
from tests.contract.asking import ask, close
from tests.contract.switching import WAYS, ask_events, lasting, versions
from tests.probe_library import (
    SETTINGS,
    activate,
    list_probes,
    list_states,
    read_metrics,
    rollback,
    turned,
    write_library,
)
from tests.serving import QUESTION, make_parts, wait_until

IDS = [f"req-{at}" for at in range(200)]


async def begin(serve, parts, tmp_path, percent, **settings):
    other = turned(parts.artifact, "2.turned")
    client = await serve(parts, probes_dir=write_library(tmp_path, other), **SETTINGS, **settings)
    answer = await activate(client, other.probe, mode="canary", percent=percent)
    assert answer.status_code == 200, answer.text
    assert answer.json() | {"probe": None} == {"probe": None, "mode": "canary", "percent": percent, "is_kept": True}
    return client, other.probe


async def probe_of(client, header=None, **body):
    headers = {"x-request-id": header} if header else {}
    sent = {"prompt": QUESTION, "sampling": {"max_tokens": 2}, **body}
    answer = await client.post("/generate", json=sent, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["guard"]["probe"]["version"]


async def test_it_answers_its_share_by_request_id(serve, tmp_path):
    client, probe = await begin(serve, make_parts(), tmp_path, 20)
    found = [await probe_of(client, request_id) for request_id in IDS]
    wanted = [probe.version if is_in_share(request_id, 20) else "0" for request_id in IDS]
    assert found == wanted
    assert 0.12 < wanted.count(probe.version) / len(IDS) < 0.28
    assert [await probe_of(client, request_id=one) for one in IDS[:20]] == wanted[:20]
    assert [await probe_of(client, "another", request_id=one) for one in IDS[:20]] == wanted[:20]  # the body's wins
    metrics = await read_metrics(client)
    n = wanted.count(probe.version) + wanted[:20].count(probe.version) * 2
    assert metrics['hguard_response_risk_count{probe="fake@2.turned",role="canary"}'] == n
    assert metrics['hguard_response_risk_count{probe="fake@0",role="active"}'] == len(IDS) + 40 - n
    entry = (await list_probes(client))[probe.version]
    assert (entry["state"], entry["percent"]) == ("canary", 20)


def test_a_growing_share_keeps_its_requests():
    shares = [{one for one in IDS if is_in_share(one, percent)} for percent in (0, 5, 25, 100)]
    assert shares[0] == set()
    assert shares[3] == set(IDS)
    assert shares[0] < shares[1] < shares[2] < shares[3]
    assert not is_in_share(None, 100)


async def test_hazard_its_answers_mix_two_probes(serve, parts, engine_name, tmp_path):
    """All ways of asking, to both probes at once, while the share changes and the active probe is switched."""
    if engine_name == "fake":
        parts.engine.step_seconds = 0.002
    other = turned(parts.artifact, "2.turned")
    client = await serve(parts, probes_dir=write_library(tmp_path, parts.artifact, other), **SETTINGS)
    wanted = {}
    for artifact in (other, parts.artifact):
        assert (await activate(client, artifact.probe)).status_code == 200
        for way in WAYS:
            wanted[way, artifact.probe.version] = lasting(await way(client))
    seen = set()

    async def keep_asking(way):
        for _ in range(6):
            found = lasting(await way(client))
            (version,) = versions(found)
            seen.add(version)
            assert close(found, wanted[way, version]), (way.__name__, version)

    async def switch():
        for percent in (50, 80, 30, 60):
            assert (await activate(client, other.probe, mode="canary", percent=percent)).status_code == 200
            await asyncio.sleep(0.03)

    await asyncio.gather(switch(), *(keep_asking(way) for way in WAYS * 2))
    assert seen == {parts.artifact.probe.version, "2.turned"}
    assert (await activate(client, other.probe)).status_code == 200  # promoted: it is no canary any more
    assert sorted((await list_states(client)).values()) == ["active", "available"]


async def test_a_request_that_names_a_probe_gets_it(serve, tmp_path):
    client, probe = await begin(serve, make_parts(), tmp_path, 50)
    inside = next(one for one in IDS if is_in_share(one, 50))
    outside = next(one for one in IDS if not is_in_share(one, 50))
    for request_id in (inside, outside):
        for version in ("0", probe.version):
            assert await probe_of(client, request_id, guard={"probe": f"fake@{version}"}) == version
    assert await probe_of(client, inside, guard={"probe": "fake"}) == probe.version
    answer = await client.post("/generate", json={"prompt": QUESTION, "guard": {"probe": "fake@7"}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "probe_not_found")


@pytest.mark.parametrize("body", ["[]", '"text"', '{"guard": 3}', '{"guard": [], "request_id": {}}', "null"])
async def test_bodies_of_another_shape_are_a_422_with_a_canary_too(serve, tmp_path, body):
    client, _ = await begin(serve, make_parts(), tmp_path, 50)
    answer = await client.post("/generate", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text


async def test_a_stream_keeps_a_canary_that_ends(serve, tmp_path):
    parts = make_parts(step_seconds=0.01)
    client, probe = await begin(serve, parts, tmp_path, 100)
    running = asyncio.create_task(ask_events(client))
    await wait_until(lambda: parts.engine.running == 1)
    assert (await rollback(client, "fake", mode="canary")).status_code == 200
    assert await list_states(client) == {"0": "active", probe.version: "available"}
    assert await probe_of(client) == "0"
    assert versions(await running) == {probe.version}


async def test_one_that_begins_to_score_wrongly_answers_nobody_until_it_is_right(serve, tmp_path, monkeypatch):
    parts = make_parts()
    client, probe = await begin(serve, parts, tmp_path, 100, canary_s=0)
    places = client._transport.app.state.lifecycle.probes.places
    row, weights = parts.engine._row, float(turned(parts.artifact, "x").probe.weights[0])

    def spoil(bank, *arguments):
        found = row(bank, *arguments)
        return RowEvidence((0.0, 0.0)) if float(bank.weights[0, 0]) == weights else found

    with monkeypatch.context() as patch:
        patch.setattr(parts.engine, "_row", spoil)
        await places.prove_again(1.0)
    assert await probe_of(client) == "0"
    assert (await client.get("/readyz")).status_code == 200
    entry = (await list_probes(client))[probe.version]
    assert (entry["state"], "standard deviations" in entry["reason"]) == ("canary", True)
    assert (await read_metrics(client))['hguard_golden_trace_failures_total{role="canary"}'] == 1
    await places.prove_again(1.0)
    assert await probe_of(client) == probe.version


async def test_shadow_and_canary_stand_beside_the_active_one(serve, tmp_path):
    parts = make_parts()
    third = turned(parts.artifact, "3")
    third = replace(third, probe=replace(third.probe, threshold=0.7))
    write_library(tmp_path, third)
    client, probe = await begin(serve, parts, tmp_path, 50)
    assert (await activate(client, third.probe, mode="shadow")).status_code == 200
    assert await list_states(client) == {"0": "active", probe.version: "canary", "3": "shadow"}
    found = [await probe_of(client, request_id) for request_id in IDS[:40]]
    metrics = await read_metrics(client)
    assert metrics['hguard_response_risk_count{probe="fake@3",role="shadow"}'] == found.count("0")  # beside the active
    roles = [name for name in metrics if name.startswith("hguard_probe_info{")]
    assert len(roles) == 3
    assert await ask(client)


async def test_openais_routes_and_score_have_the_same_share(serve, tmp_path):
    client, probe = await begin(serve, make_parts(), tmp_path, 50)
    asked = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4},
        "/v1/completions": {"prompt": QUESTION, "max_tokens": 4},
        "/score": {"prompt": QUESTION, "response": "It is Paris."},
    }
    seen = set()
    for path, sent in asked.items():
        for request_id in IDS[:10]:
            answer = await client.post(path, json={"model": "fake", **sent}, headers={"x-request-id": request_id})
            assert answer.status_code == 200, answer.text
            found = versions(answer.json())
            assert found == {probe.version if is_in_share(request_id, 50) else "0"}, path
            seen |= found
    assert seen == {"0", probe.version}


async def test_hazard_litellm_that_names_a_probe_meets_the_other_one(serve, tmp_path):
    client, probe = await begin(serve, make_parts(), tmp_path, 50)
    for at, name in enumerate(["fake@0", f"{probe.name}@{probe.version}"] * 6):
        call = {"litellm_call_id": f"call-{at}", "additional_provider_specific_params": {"probe": name}}
        path = "/beta/litellm_basic_guardrail_api"
        await client.post(path, json={**call, "input_type": "request", "texts": [QUESTION]})
        answer = await client.post(path, json={**call, "input_type": "response", "texts": ["It is Paris."]})
        assert answer.status_code == 200, answer.text
        found = answer.json()["guards"][0]["probe"]
        assert f"{found['name']}@{found['version']}" == name
