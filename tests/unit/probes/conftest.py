"""A tiny model, an artifact that belongs to it, and a cache for models."""

import pytest

from probes.artifact import save_artifact
from tests.unit.probes.artifacts import build_model, make_artifact


@pytest.fixture(scope="session")
def model():
    """Tests leave it as it is; `build_model` gives one to change."""
    return build_model()


@pytest.fixture(scope="session")
def artifact(model):
    return make_artifact(model)


@pytest.fixture
def saved(tmp_path, artifact):
    save_artifact(tmp_path / "tiny" / "1.0.0", artifact, "# card\n")
    return tmp_path / "tiny" / "1.0.0"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setenv("HGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"
