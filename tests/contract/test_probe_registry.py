"""Probes on disk: listed, refused with the reason, and rolled back to."""

from dataclasses import replace

import pytest

from probes.serving_state import FILE
from service.engines.fake_probe import fake_artifact
from tests.contract.asking import ask, close
from tests.contract.spoiling import (
    cut,
    drop_json,
    of_another_model,
    of_other_weights,
    swap_weights,
    with_another_name,
    with_another_trace,
    write_again,
)
from tests.contract.switching import lasting, versions
from tests.probe_library import (
    HEADERS,
    SETTINGS,
    activate,
    list_probes,
    list_states,
    read_metrics,
    rollback,
    turned,
    write_library,
)
from tests.serving import make_parts


async def reload(client):
    answer = await client.post("/probes/reload", headers=HEADERS)
    assert answer.status_code == 200, answer.text
    return answer.json()["probes"]


async def served(client):
    (version,) = versions(await ask(client))
    return version


STAGES = [
    (cut, "not the file that probe.json was written with"),
    (swap_weights, "not the file that probe.json was written with"),
    (drop_json, "not a probe artifact"),
    (write_again(of_another_model), "architecture"),
    (write_again(of_other_weights), "column norm"),
    (write_again(with_another_trace), "standard deviations"),
    (write_again(with_another_name), "holds"),
]


@pytest.mark.parametrize("mode", [{}, {"mode": "shadow"}, {"mode": "canary", "percent": 100}], ids=str)
@pytest.mark.parametrize(("spoil", "reason"), STAGES, ids=[spoil.__name__ for spoil, _ in STAGES])
async def test_hazard_a_spoilt_probe_is_served(serve, parts, tmp_path, spoil, reason, mode):
    bad = turned(parts.artifact, "2")
    client = await serve(parts, probes_dir=write_library(tmp_path, bad), **SETTINGS)
    before = lasting(await ask(client))
    spoil(tmp_path / bad.probe.name / "2", bad)
    answer = await activate(client, bad.probe, **mode)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "probe_refused")
    assert reason in answer.text
    assert close(lasting(await ask(client)), before)
    assert (await client.get("/readyz")).status_code == 200
    entry = (await list_probes(client))["2"]
    assert (entry["state"], reason in entry["reason"]) == ("refused", True)
    assert (await read_metrics(client))['hguard_probe_loads_total{result="refused"}'] == 1
    assert not (tmp_path / FILE).exists()  # nothing was switched


async def test_reload_finds_new_ones_and_forgives_mended_ones(serve, tmp_path):
    client = await serve(probes_dir=tmp_path, **SETTINGS)
    assert await list_states(client) == {"0": "active"}
    for version in ("1", "2"):
        write_library(tmp_path, turned(fake_artifact(), version))
    cut(tmp_path / "fake" / "2", None)
    assert await list_states(client) == {"0": "active"}
    entries = {entry["version"]: entry for entry in await reload(client)}
    assert (entries["1"]["state"], entries["2"]["state"]) == ("available", "refused")
    assert "probe.safetensors" in entries["2"]["reason"]
    assert entries["2"]["sha256"] is None
    assert (await read_metrics(client))['hguard_probe_loads_total{result="refused"}'] == 1
    write_again(lambda artifact: artifact)(tmp_path / "fake" / "2", turned(fake_artifact(), "2"))
    await reload(client)
    assert await list_states(client) == {"0": "active", "1": "available", "2": "available"}
    assert (await client.post("/probes/fake/activate", headers=HEADERS)).json()["probe"]["version"] == "2"  # newest
    assert (await client.post("/probes/reload")).status_code == 401


async def test_a_refusal_is_forgotten_once_the_files_are_right(serve, tmp_path):
    good = turned(fake_artifact(), "1")
    client = await serve(probes_dir=write_library(tmp_path, with_another_trace(good)), **SETTINGS)
    assert (await activate(client, good.probe)).status_code == 409
    write_again(lambda artifact: artifact)(tmp_path / "fake" / "1", good)
    assert (await activate(client, good.probe)).status_code == 200
    assert await list_states(client) == {"1": "active"}


class TestRollback:
    """From 3 to 2 to 1."""

    @pytest.fixture
    async def client(self, serve, parts, tmp_path):
        self.parts, self.name = parts, parts.artifact.probe.name
        made = [turned(parts.artifact, "2"), replace(parts.artifact, probe=replace(parts.artifact.probe, version="3"))]
        client = await serve(parts, probes_dir=write_library(tmp_path, *made), **SETTINGS)
        self.first = lasting(await ask(client))
        for artifact in made:
            assert (await activate(client, artifact.probe)).status_code == 200
        return client

    async def test_it_goes_back_step_by_step(self, client):
        assert await served(client) == "3"
        answer = await rollback(client, self.name)
        assert (answer.status_code, answer.json()["probe"]["version"]) == (200, "2")
        assert await served(client) == "2"
        assert (await rollback(client, self.name)).status_code == 200
        assert close(lasting(await ask(client)), self.first)
        answer = await rollback(client, self.name)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "nothing_before")
        assert close(lasting(await ask(client)), self.first)

    async def test_hazard_it_goes_back_to_a_probe_that_scores_wrongly_by_now(self, client, monkeypatch):
        audit = self.parts.engine.audit

        async def shifted(*arguments, **options):
            return [replace(one, rows=one.rows[::-1]) for one in await audit(*arguments, **options)]

        with monkeypatch.context() as patch:
            patch.setattr(self.parts.engine, "audit", shifted)
            answer = await rollback(client, self.name)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "probe_refused")
        assert await served(client) == "3"
        assert (await list_probes(client))["2"]["state"] == "refused"
        assert (await rollback(client, self.name)).status_code == 200  # nothing was lost

    async def test_another_name_is_not_rolled_back(self, client):
        answer = await rollback(client, "other")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_served")
        assert (await client.post(f"/probes/{self.name}/rollback")).status_code == 401
        assert await served(client) == "3"


async def test_without_a_model_nothing_can_be_switched(serve, tmp_path, monkeypatch):
    parts = make_parts()

    async def fails(_expected):
        raise OSError("no such device")

    monkeypatch.setattr(parts.engine, "start", fails)
    client = await serve(parts, probes_dir=tmp_path, **SETTINGS)
    for path in ("/probes/fake/activate", "/probes/fake/rollback", "/probes/reload"):
        answer = await client.post(path, headers=HEADERS)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert "no such device" in answer.text
    assert (await client.get("/probes")).status_code == 200


async def test_without_a_folder_of_probes_nothing_is_kept(serve):
    client = await serve(make_parts(), **SETTINGS)
    assert (await rollback(client, "fake")).json()["error"]["code"] == "nothing_before"
    answer = await client.post("/probes/smollm2-135m-instruct/activate", headers=HEADERS)
    assert answer.status_code == 409  # of another model
