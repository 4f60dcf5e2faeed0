"""A second start over the same folder of probes: the same probes serve, or it is said why not."""

import json
from dataclasses import replace

import pytest

from probes.serving_state import FILE
from service.engines.fake_probe import fake_artifact
from tests.contract.asking import ask
from tests.contract.spoiling import cut, of_another_model, with_another_trace, write_again
from tests.contract.switching import versions
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
from tests.serving import make_parts, serve_in_process


async def served(client):
    (version,) = versions(await ask(client))
    return version


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

    async def test_a_folder_that_is_not_there_is_made(self, tmp_path, monkeypatch):
        """An empty volume in a pod hides the folder that the image has; the shipped probes can be switched."""
        folder, shipped = tmp_path / "volume" / "probes", turned(fake_artifact(), "1")
        monkeypatch.setattr("probes.registry.LIBRARY", write_library(tmp_path / "shipped", shipped))
        async with self.start(folder) as client:
            answer = await activate(client, shipped.probe)
            assert (answer.status_code, answer.json()["is_kept"]) == (200, True)
        async with self.start(folder) as client:
            assert await list_states(client) == {"1": "active"}

    async def test_a_folder_that_cannot_be_written_is_said(self, folder, monkeypatch, caplog):
        def fails(*_):
            raise OSError("read-only file system")

        monkeypatch.setattr("service.probe_roles.memory.write_state", fails)
        async with self.start(folder) as client:
            answer = await rollback(client, "fake", mode="canary")
            assert (answer.status_code, answer.json()["is_kept"]) == (200, False)
        assert "read-only file system" in caplog.text
