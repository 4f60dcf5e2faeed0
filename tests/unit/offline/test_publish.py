"""A new probe is published only if it beats the one that is there, on rows that neither was chosen by."""

import json
from dataclasses import replace

import pytest

from offline import metrics, train_probe
from offline import publish as publish_module
from offline.evaluation.evaluate import FREE, SERVED
from offline.publish import FILES, check_place, find_incumbent, publish
from probes.artifact import ArtifactError, load_artifact
from probes.serving_state import ProbeReference, ServingState, write_state
from tests.unit.offline.publishing import changed, worse, write


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 50)


def better_card(artifact, low):
    """With another lead over the free signals."""
    card = json.loads(json.dumps(artifact.card))
    card["evidence"]["test"]["differences"][f"{SERVED} over {FREE}"] = [low + 0.05, low, low + 0.1]
    return replace(artifact, card=card)


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_better_one_is_published_whole_and_without_a_pickle(made, tmp_path):
    folder, out = made
    new = load_artifact(folder)
    write(tmp_path, worse(new))
    published = publish(folder, out, tmp_path)
    assert published.verdict.is_better
    assert published.folder == tmp_path / "tiny" / "1.0.0"
    assert load_artifact(published.folder).sha256 == new.sha256
    assert sorted(path.name for path in published.folder.iterdir()) == sorted([*FILES, "publish.json"])
    evidence = json.loads((published.folder / "publish.json").read_text())
    assert evidence["against"].startswith("tiny@0.9.0 ")
    assert evidence["auroc"][0] > evidence["auroc"][1]
    assert evidence["rows"]["test"] > 0
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == ["0.9.0", "1.0.0"]  # no scratch is left


def test_one_that_is_not_better_leaves_the_folder_as_it_was(made, tmp_path):
    folder, out = made
    new = load_artifact(folder)
    write(tmp_path, changed(new, "0.9.0"))  # the same probe under another version gains nothing
    before = files_of(tmp_path)
    published = publish(folder, out, tmp_path)
    assert published.folder is None
    assert published.verdict.evidence["auroc_gained"] == [0, 0, 0]
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(("low", "is_better"), [(0.01, True), (0.0, False), (-0.02, False)])
def test_the_first_of_its_name_has_to_beat_the_free_signals(made, tmp_path, low, is_better):
    folder, out = made
    first = write(tmp_path / "run", better_card(load_artifact(folder), low))
    published = publish(tmp_path / "run" / "tiny" / "1.0.0", out, tmp_path / "probes")
    assert published.verdict.is_better == is_better
    assert (tmp_path / "probes" / "tiny" / "1.0.0").exists() == is_better
    assert published.verdict.evidence["against"] == FREE
    assert first.sha256


def test_it_has_to_beat_the_active_one_and_not_the_newest(made, tmp_path):
    folder, _ = made
    new = load_artifact(folder)
    old, newest = (write(tmp_path, changed(new, version)) for version in ("0.8.0", "0.10.0"))
    assert find_incumbent(tmp_path, "tiny").sha256 == newest.sha256
    active = ProbeReference("tiny", "0.8.0", old.sha256)
    write_state(tmp_path, ServingState("default", active))
    assert find_incumbent(tmp_path, "tiny").sha256 == old.sha256
    write_state(tmp_path, ServingState("default", replace(active, sha256="0")))
    with pytest.raises(ArtifactError, match=r"tiny@0\.8\.0 is active, and its files"):
        find_incumbent(tmp_path, "tiny")
    write_state(tmp_path, ServingState("default", replace(active, name="other")))
    assert find_incumbent(tmp_path, "tiny").sha256 == newest.sha256
    assert find_incumbent(tmp_path, "nothing") is None
    (tmp_path / "tiny" / "0.10.0" / "probe.json").write_text("{")
    with pytest.raises(ArtifactError, match="take it out"):
        find_incumbent(tmp_path, "tiny")
    assert find_incumbent(tmp_path / "none", "smollm2-135m-instruct").probe.version == "1.3.0"  # the shipped one


def test_a_published_version_is_never_replaced(made, tmp_path, tmp_path_factory):
    folder, out = made
    new = load_artifact(folder)
    write(tmp_path, worse(new))
    publish(folder, out, tmp_path)
    before = files_of(tmp_path)
    assert publish(folder, out, tmp_path).verdict is None  # the same files: nothing to do
    other = tmp_path_factory.mktemp("other")
    write(other, worse(new, "1.0.0"))
    with pytest.raises(FileExistsError, match="never replaced"):
        publish(other / "tiny" / "1.0.0", out, tmp_path)
    with pytest.raises(FileExistsError, match="never replaced"):
        check_place(tmp_path, "tiny", "1.0.0", tmp_path / "not made yet")
    check_place(tmp_path, "tiny", "1.0.1", tmp_path / "not made yet")
    assert files_of(tmp_path) == before


def test_hazard_a_kill_while_it_is_copied_leaves_half_a_probe(made, tmp_path, monkeypatch):
    folder, out = made
    write(tmp_path, worse(load_artifact(folder)))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(publish_module.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        publish(folder, out, tmp_path)
    assert not (tmp_path / "tiny" / "1.0.0").exists()
    assert find_incumbent(tmp_path, "tiny").probe.version == "0.9.0"


class TestCommandLine:
    """Exit codes, and a refusal before the long run."""

    @pytest.fixture
    def run(self, made, tmp_path, monkeypatch):
        folder, out = made
        monkeypatch.setattr(train_probe, "refresh", lambda config, **_: folder)
        monkeypatch.setattr(train_probe, "artifact_folder", lambda *_: folder)

        def start(probes_dir):
            arguments = ["--questions", "x.jsonl", "--out", str(out), "--name", "tiny", "--publish", str(probes_dir)]
            return train_probe.main(arguments)

        return start

    def test_a_better_probe_is_0_and_says_how_it_is_served(self, made, run, tmp_path, caplog):
        write(tmp_path, worse(load_artifact(made[0])))
        caplog.set_level("INFO")
        assert run(tmp_path) == 0
        assert "gate: better: against tiny@0.9.0" in caplog.text
        assert f"published: {tmp_path}/tiny/1.0.0; POST /probes/tiny/activate serves it" in caplog.text
        assert run(tmp_path) == 0  # again: it is there

    def test_one_that_is_not_is_1(self, made, run, tmp_path, caplog):
        write(tmp_path, changed(load_artifact(made[0])))
        assert run(tmp_path) == 1
        assert "not published" in caplog.text

    def test_a_taken_version_is_2_before_anything_runs(self, made, run, tmp_path, monkeypatch, caplog):
        write(tmp_path, worse(load_artifact(made[0]), "1.0.0"))
        monkeypatch.setattr(train_probe, "refresh", pytest.fail)
        assert run(tmp_path) == 2
        assert "choose another --version" in caplog.text
