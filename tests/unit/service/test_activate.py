"""Who may switch probes, and what is refused before an engine is asked."""

import hashlib

import pytest

from service.engines.fake_probe import fake_artifact
from service.settings import SettingsError, read_settings
from tests.probe_library import HEADERS, KEY, SETTINGS, activate, turned, write_library
from tests.serving import QUESTION, make_parts


@pytest.fixture
def new(tmp_path):
    artifact = turned(fake_artifact(), "1")
    write_library(tmp_path, artifact)
    return artifact.probe


def code_of(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]["code"]


async def served(client):
    return (await client.post("/generate", json={"prompt": QUESTION})).json()["choices"][0]["guard"]["probe"]["version"]


async def test_without_a_key_nobody_may_and_the_fix_is_named(serve, new, tmp_path):
    client = await serve(probes_dir=tmp_path)
    answer = await activate(client, new)
    assert code_of(answer, 403) == "no_admin_key"
    assert "HGUARD_ADMIN_KEY_SHA256" in answer.text
    assert await served(client) == "0"


@pytest.mark.parametrize(
    "header",
    [None, "Bearer", "Bearer ", "Bearer another", f"Basic {KEY}", KEY, f"Bearer {SETTINGS['admin_key_sha256']}", "é"],
)
async def test_another_key_is_refused_before_the_body_is_looked_at(serve, new, tmp_path, header):
    client = await serve(probes_dir=tmp_path, **SETTINGS)
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    answer = await activate(client, new, headers)
    assert code_of(answer, 401) == "invalid_api_key"
    assert code_of(await client.post("/probes/fake/activate", json={"x": 1}, headers=headers), 401) == "invalid_api_key"
    assert SETTINGS["admin_key_sha256"] not in answer.text
    assert await served(client) == "0"


async def test_the_key_opens_whatever_its_letters(serve, new, tmp_path):
    key = "Schlüssel"
    client = await serve(probes_dir=tmp_path, admin_key_sha256=hashlib.sha256(key.encode()).hexdigest().upper())
    answer = await activate(client, new, {"authorization": f"bearer {key}".encode()})
    assert answer.status_code == 200
    assert answer.json()["probe"]["version"] == "1"
    assert await served(client) == "1"
    metrics = (await client.get("/metrics")).text
    info = [line for line in metrics.splitlines() if line.startswith("hguard_probe_info{")]
    assert len(info) == 1
    assert 'role="active"' in info[0]
    assert 'version="1"} 1.0' in info[0]
    assert 'hguard_probe_loads_total{result="ok"} 2.0' in metrics


@pytest.mark.parametrize(
    "body",
    [
        {"name": "fake"},
        {"version": ""},
        {"version": "../1"},
        {"version": "."},
        {"version": 1},
        {"version": "1", "more": 1},
        {"mode": "served"},
        {"mode": "canary"},
        {"mode": "canary", "percent": 0},
        {"mode": "canary", "percent": 101},
        {"mode": "canary", "percent": "5"},
        {"percent": 5},
        {"mode": "shadow", "percent": 5},
    ],
)
async def test_bodies(serve, new, tmp_path, body):
    client = await serve(probes_dir=tmp_path, **SETTINGS)
    answer = await client.post("/probes/fake/activate", json=body, headers=HEADERS)
    assert code_of(answer, 422) == "validation_error"
    assert await served(client) == "0"


async def test_unknown_and_damaged_probes_are_told_apart(serve, new, tmp_path):
    client = await serve(probes_dir=tmp_path, **SETTINGS)
    for name, version in (("fake", "7"), ("other", "1")):
        answer = await client.post(f"/probes/{name}/activate", json={"version": version}, headers=HEADERS)
        assert code_of(answer, 404) == "probe_not_found"
    assert code_of(await client.post("/probes/.fake/activate", headers=HEADERS), 422) == "validation_error"
    (tmp_path / "fake" / "1" / "probe.safetensors").write_bytes(b"cut")
    assert code_of(await activate(client, new), 409) == "probe_refused"
    assert 'hguard_probe_loads_total{result="refused"} 1.0' in (await client.get("/metrics")).text
    assert await served(client) == "0"


async def test_a_probe_that_is_right_replaces_one_that_was_refused_at_the_start(serve, new, tmp_path):
    client = await serve(make_parts(locator="oracle"), probes_dir=tmp_path, **SETTINGS)
    assert (await client.get("/readyz")).status_code == 503
    assert (await activate(client, new)).status_code == 200
    assert (await client.get("/readyz")).json() == {"status": "ready", "reasons": []}
    assert await served(client) == "1"


async def test_without_a_model_there_is_nothing_to_switch(serve, new, tmp_path, monkeypatch):
    parts = make_parts()

    async def fails(_expected):
        raise OSError("no such device")

    monkeypatch.setattr(parts.engine, "start", fails)
    client = await serve(parts, probes_dir=tmp_path, **SETTINGS)
    answer = await activate(client, new)
    assert code_of(answer, 503) == "not_ready"
    assert "no such device" in answer.text


def test_a_key_in_the_place_of_its_hash_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HGUARD_ADMIN_KEY_SHA256", KEY)
    with pytest.raises(SettingsError, match=r"HGUARD_ADMIN_KEY_SHA256="):
        read_settings({})
