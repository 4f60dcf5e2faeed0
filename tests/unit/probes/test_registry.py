"""A reference must name the artifact that a person means: the newest of a name, the one of the loaded model."""

import pytest
import torch

from probes import registry
from probes.artifact import ArtifactError, save_artifact
from probes.registry import ProbeNotFoundError, find_probe, list_artifacts
from tests.unit.probes.artifacts import build_model, make_artifact

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture(scope="module")
def fingerprint(model):
    return make_artifact(model).model


@pytest.fixture
def place(tmp_path, monkeypatch, model):
    """`place(base, name, version, ...)` saves an artifact; the library is an empty folder of the test's."""
    (tmp_path / "library").mkdir()
    monkeypatch.setattr(registry, "LIBRARY", tmp_path / "library")

    def save(base, name, version, *, of=model):
        folder = tmp_path / base / name / version
        save_artifact(folder, make_artifact(of, name=name, version=version), "")
        return folder

    return save


@pytest.fixture
def mine(tmp_path):
    return tmp_path / "mine"


def test_versions_are_ordered_as_numbers(place, mine, fingerprint):
    order = ["2.0.0", "1.10.0", "1.9.2", "1.9.0", "1.9.0-rc1", "1.9", "0.1"]
    for version in sorted(order):
        place("mine", "p", version)
    assert [folder.name for folder in list_artifacts(mine)] == order
    assert find_probe("p", fingerprint, mine).probe.version == "2.0.0"
    assert find_probe("p@1.9.0", fingerprint, mine).probe.version == "1.9.0"


def test_a_superscript_is_no_number_and_no_crash(place, mine):
    place("mine", "p", "1.²")
    place("mine", "p", "1.0")
    assert [folder.name for folder in list_artifacts(mine)] == ["1.0", "1.²"]


def test_default_is_the_probe_of_the_loaded_model(place, mine, fingerprint):
    place("library", "a-first", "9.0.0", of=build_model(intermediate_size=40))
    place("library", "b-second", "1.0.0")
    assert find_probe("default", fingerprint).probe.name == "b-second"
    assert find_probe("default", fingerprint, mine).probe.name == "b-second"  # the folder need not exist


def test_the_operators_probe_goes_before_the_shipped_one(place, mine, fingerprint):
    place("library", "p", "2.0.0")
    place("mine", "p", "1.0.0")
    assert find_probe("p", fingerprint, mine).probe.version == "1.0.0"
    assert find_probe("default", fingerprint, mine).probe.version == "1.0.0"
    assert find_probe("p@2.0.0", fingerprint, mine).probe.version == "2.0.0"


def test_default_without_a_match_says_what_there_is_and_how_to_make_one(place, mine, fingerprint):
    place("library", "other", "1.0.0", of=build_model(num_hidden_layers=2))
    with pytest.raises(ProbeNotFoundError, match=r"no probe for this LlamaForCausalLM.*other@1\.0\.0.*train_probe"):
        find_probe("default", fingerprint, mine)


def test_a_name_that_is_not_there_lists_what_is(place, fingerprint):
    place("library", "p", "1.0.0")
    with pytest.raises(ProbeNotFoundError, match=r"no probe 'p@1\.1\.0': there are p@1\.0\.0"):
        find_probe("p@1.1.0", fingerprint)
    with pytest.raises(ProbeNotFoundError, match="there are"):
        find_probe("", fingerprint)


def test_a_folder_is_a_reference(place, tmp_path, fingerprint):
    folder = place("elsewhere", "p", "1.0.0")
    assert find_probe(str(folder), fingerprint).probe.name == "p"


def test_damage_elsewhere_does_not_keep_the_default_from_being_found(place, mine, fingerprint):
    damaged = place("mine", "a", "1.0.0")
    (damaged / "probe.safetensors").write_bytes(b"cut")
    place("library", "b", "1.0.0")
    assert find_probe("default", fingerprint, mine).probe.name == "b"
    with pytest.raises(ArtifactError, match="not the file"):
        find_probe("a", fingerprint, mine)


def test_folders_that_hold_no_artifact_are_passed_over(place, mine, fingerprint):
    place("mine", "p", "1.0.0")
    (mine / "p" / "2.0.0").mkdir()
    (mine / "p" / ".3.0.0-scratch" / "artifact").mkdir(parents=True)
    (mine / "notes.txt").write_text("")
    assert [folder.name for folder in list_artifacts(mine)] == ["1.0.0"]
