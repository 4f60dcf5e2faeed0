"""Probes on disk: listed, refused, rolled back to, and found again after a restart."""

import json
from dataclasses import replace

import numpy as np
import pytest

from probes.artifact import save_artifact
from probes.serving_state import FILE
from service.fake_probe import fake_artifact
from tests.contract.asking import ask, close
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
from tests.serving import make_parts, serve_in_process


async def reload(client):
    answer = await client.post("/probes/reload", headers=HEADERS)
    assert answer.status_code == 200, answer.text
    return answer.json()["probes"]


async def served(client):
    (version,) = versions(await ask(client))
    return version


def cut(folder, _artifact):
    (folder / "probe.safetensors").write_bytes(b"cut")


def swap_weights(folder, _artifact):
    """Whole, but not what probe.json was written with."""
    data = bytearray((folder / "probe.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "probe.safetensors").write_bytes(data)


def drop_json(folder, _artifact):
    (folder / "probe.json").write_text("{")


def write_again(change):
    def spoil(folder, artifact):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        save_artifact(folder, change(artifact), "card")

    spoil.__name__ = change.__name__
    return spoil


def of_another_model(artifact):
    return replace(artifact, model=replace(artifact.model, architecture="Other"))


def of_other_weights(artifact):
    return replace(artifact, probe=replace(artifact.probe, norms=artifact.probe.norms * 1.5))


def with_another_trace(artifact):
    scores = tuple(np.roll(row, 1) for row in artifact.golden.scores)
    return replace(artifact, golden=replace(artifact.golden, scores=scores))


def with_another_name(artifact):
    return replace(artifact, probe=replace(artifact.probe, version="9"))


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


class TestRestart:
    """A second application over the same folder."""

    @pytest.fixture
    async def folder(self, tmp_path):
        first = fake_artifact()
        made = [turned(first, "1"), replace(first, probe=replace(first.probe, version="2")), turned(first, "3")]
        made[2] = replace(made[2], probe=replace(made[2].probe, threshold=0.9))
        write_library(tmp_path, *made)
        async with self.start(tmp_path) as client:
            answers = [await activate(client, made[at].probe) for at in (0, 1)]
            answers.append(await activate(client, made[2].probe, mode="shadow"))
            answers.append(await activate(client, made[0].probe, mode="canary", percent=30))
            assert [answer.json()["is_kept"] for answer in answers] == [True] * 4
            self.before = await list_states(client)
        assert self.before == {"2": "active", "3": "shadow", "1": "canary"}
        return tmp_path

    def start(self, folder, **settings):
        return serve_in_process(make_parts(), probes_dir=folder, **SETTINGS, **settings)

    async def test_all_roles_and_the_way_back_survive(self, folder):
        async with self.start(folder) as client:
            assert await list_states(client) == self.before
            assert (await list_probes(client))["1"]["percent"] == 30
            assert (await rollback(client, "fake")).json()["probe"]["version"] == "1"
            assert (await rollback(client, "fake")).json()["probe"]["version"] == "0"  # in no folder: HGUARD_PROBE's
        async with self.start(folder) as client:
            assert await list_states(client) == {"0": "active", "1": "available", "2": "available", "3": "shadow"}

    async def test_another_setting_decides_anew(self, folder):
        async with self.start(folder, probe="fake@3") as client:
            assert (await list_states(client))["2"] == "available"
            assert await served(client) == "0"  # `make_parts` stands for what HGUARD_PROBE names

    @pytest.mark.parametrize("spoil", [cut, write_again(with_another_trace), write_again(of_another_model)])
    async def test_hazard_files_that_changed_meanwhile_are_served(self, folder, spoil):
        spoil(folder / "fake" / "2", turned(fake_artifact(), "2"))
        async with self.start(folder) as client:
            assert (await client.get("/readyz")).status_code == 200
            assert (await list_states(client))["0"] == "active"
            entry = (await list_probes(client))["2"]
            assert (entry["state"], bool(entry["reason"])) == ("refused", True)
            assert (await list_states(client))["3"] == "shadow"
            assert (await read_metrics(client))['hguard_probe_loads_total{result="refused"}'] >= 1
        assert json.loads((folder / FILE).read_text())["active"]["version"] == "2"  # mended files are served again

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"active": {}}', '{"configured": 1}'])
    async def test_a_damaged_memory_is_no_reason_not_to_start(self, folder, text):
        (folder / FILE).write_text(text)
        async with self.start(folder) as client:
            assert await list_states(client) == {"0": "active"} | dict.fromkeys("123", "available")
            assert (await read_metrics(client))['hguard_probe_loads_total{result="refused"}'] == 1

    async def test_a_folder_that_cannot_be_written_is_said(self, folder, monkeypatch, caplog):
        def fails(*_):
            raise OSError("read-only file system")

        monkeypatch.setattr("service.probe_memory.write_state", fails)
        async with self.start(folder) as client:
            answer = await rollback(client, "fake", mode="canary")
            assert (answer.status_code, answer.json()["is_kept"]) == (200, False)
        assert "read-only file system" in caplog.text


async def test_without_a_folder_of_probes_nothing_is_kept(serve):
    client = await serve(make_parts(), **SETTINGS)
    assert (await rollback(client, "fake")).json()["error"]["code"] == "nothing_before"
    answer = await client.post("/probes/smollm2-135m-instruct/activate", headers=HEADERS)
    assert answer.status_code == 409  # of another model
