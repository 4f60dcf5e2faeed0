"""Which probe is served, and how it is said that there is none."""

from dataclasses import replace

import pytest

from probes.artifact import save_artifact
from service.engines.fake import FakeEngine
from service.engines.fake_probe import fake_artifact
from service.loading import StartupError, load_engine, load_probe
from service.settings import Settings


@pytest.fixture
def library(tmp_path):
    for version in ("9", "10"):
        artifact = fake_artifact()
        renamed = replace(artifact, probe=replace(artifact.probe, name="mine", version=version))
        save_artifact(tmp_path / "mine" / version, renamed, "card")
    return tmp_path


def load(library, reference):
    return load_probe(Settings(engine="fake", probe=reference, probes_dir=library), FakeEngine())


def test_a_probe_by_name_version_or_folder(library):
    assert load(library, "mine").probe.version == "10"
    assert load(library, "mine@9").probe.version == "9"
    assert load(library, str(library / "mine" / "9")).probe.version == "9"
    assert load(library, "default").probe.name == "fake"


def test_unknown_and_damaged_probes_are_told_apart(library):
    with pytest.raises(StartupError, match=r"HGUARD_PROBE=mine@11: .*mine@10"):
        load(library, "mine@11")
    (library / "mine" / "10" / "probe.safetensors").write_bytes(b"cut")
    with pytest.raises(StartupError, match=r"HGUARD_PROBE=mine: .*not the file"):
        load(library, "mine")


def test_an_engine_that_is_not_installed_says_what_is(monkeypatch):
    monkeypatch.setattr("service.engines.registry._has_vllm", lambda: False)
    with pytest.raises(StartupError, match="HGUARD_ENGINE=transformers"):
        load_engine(Settings(engine="vllm"))
