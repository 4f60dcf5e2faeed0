"""A new probe is published only if it beats the one that is there, on rows that neither was chosen by."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from offline import metrics, train_probe
from offline import publish as publish_module
from offline.evaluate import FREE, SERVED
from offline.gate import NoComparisonError, compare, gate_logits, read_gate
from offline.publish import FILES, check_place, find_incumbent, publish
from offline.scores import load_scores
from offline.stages import StageMismatchError
from probes.artifact import ArtifactError, load_artifact, save_artifact
from probes.calibration import Calibration
from probes.neurons import NeuronSet
from probes.serving_state import ProbeReference, ServingState, write_state


@pytest.fixture(scope="module")
def made(built):
    """(artifact's folder, run's folder) of the built run, with the stages that a whole run keeps."""
    run, table, _, folder = built
    out = run.out
    (out / "labels.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in table.rows))
    spans = [{"question_id": passage.key} for passage in table.passages]
    (out / "spans.jsonl").write_text("".join(json.dumps(span) + "\n" for span in spans))
    (out / "spans.settings.json").write_text(json.dumps({"spans": "lexical"}))
    return folder, out


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 50)


def changed(artifact, version="0.9.0", **changes):
    return replace(artifact, probe=replace(artifact.probe, version=version, **changes))


def write(folder, artifact):
    return save_artifact(folder / artifact.probe.name / artifact.probe.version, artifact, "card")


def worse(artifact, version="0.9.0"):
    """Reads the neurons the wrong way round: no better than the free signals, or worse."""
    return changed(artifact, version, weights=-artifact.probe.weights)


def better_card(artifact, low):
    """With another lead over the free signals."""
    card = json.loads(json.dumps(artifact.card))
    card["evidence"]["test"]["differences"][f"{SERVED} over {FREE}"] = [low + 0.05, low, low + 0.1]
    return replace(artifact, card=card)


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_gate_sees_what_the_evaluation_saw(made):
    folder, out = made
    artifact, gate = load_artifact(folder), read_gate(out)
    judged = load_scores(out, artifact.sha256)
    wanted = dict(zip(zip(judged.question_ids, judged.splits, strict=True), judged.of(SERVED), strict=True))
    found = gate_logits(artifact.probe, gate)
    assert len(found) == len(wanted)
    for row, logit in zip(gate.table.rows, found, strict=True):
        assert logit == pytest.approx(wanted[row.question_id, row.split], abs=1e-4)
    assert {row.split for row in gate.table.rows} == {"test", "unfiltered-test"}


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


def test_hazard_a_gain_in_ranking_hides_a_loss_of_calibration(made):
    folder, out = made
    new, gate = load_artifact(folder), read_gate(out)
    (flat,), weights = new.probe.neurons.flat, new.probe.weights
    both = NeuronSet.from_flat(new.probe.neurons.widths, np.array([flat, flat + 1]))
    noisy = {"neurons": both, "weights": np.repeat(weights, 2), "norms": np.repeat(new.probe.norms, 2)}
    old = changed(new, **noisy)  # another neuron's CETT is noise: it ranks worse
    assert compare(new, old, gate).is_better
    risk_model = replace(new.probe.risk_model, calibration=Calibration("platt", slope=0.01, offset=4.0))
    always = changed(new, "1.0.0", risk_model=risk_model)  # ranks as before, and calls everything 98%
    verdict = compare(always, old, gate)
    assert verdict.evidence["auroc_gained"][0] > 0
    assert verdict.evidence["calibration_error"][0] > verdict.evidence["calibration_error"][1] + 0.01
    assert not verdict.is_better


def test_hazard_noise_is_taken_for_a_gain(made, monkeypatch):
    """An estimate above 0 is not enough where the interval reaches far below."""
    folder, out = made
    new, gate = load_artifact(folder), read_gate(out)
    interval = metrics.Interval(0.005, -0.02, 0.03)
    monkeypatch.setattr("offline.gate.bootstrap_difference", lambda *_: interval)
    assert not compare(new, worse(new), gate).is_better
    monkeypatch.setattr("offline.gate.bootstrap_difference", lambda *_: replace(interval, low=-0.009))
    assert compare(new, worse(new), gate).is_better


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
    assert find_incumbent(tmp_path / "none", "smollm2-135m-instruct").probe.version == "1.2.0"  # the shipped one


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


class TestNoComparison:
    """Rows that do not tell are refused in words; nothing is published by default."""

    def test_another_layer_of_the_stream(self, made, tmp_path):
        folder, out = made
        new, gate = load_artifact(folder), read_gate(out)
        head = replace(residual_head(new, gate), layer=77)
        old = changed(new, residual=head, risk_model=replace(new.probe.risk_model, weights={"residual": 1.0}))
        with pytest.raises(NoComparisonError, match=r"tiny@0\.9\.0 reads the residual stream after layer 77, .* kept"):
            compare(new, old, gate)

    def test_a_layer_that_was_kept_is_read(self, made):
        folder, out = made
        new, gate = load_artifact(folder), read_gate(out)
        head = residual_head(new, gate)
        old = changed(new, residual=head, risk_model=replace(new.probe.risk_model, weights={"residual": 1.0}))
        streams = gate.residuals.groups["answer" if new.probe.position == "own" else "answer_ahead"]
        wanted = np.asarray(streams[gate.table.place, 1], np.float64) @ head.weights + head.intercept
        found = gate_logits(old.probe, gate) - old.probe.risk_model.intercept
        np.testing.assert_allclose(found, wanted, atol=1e-6)

    def test_rows_whose_answers_were_marked_in_another_way(self, made):
        folder, out = made
        new, gate = load_artifact(folder), replace(read_gate(out), has_claims=False)
        with pytest.raises(NoComparisonError, match="--spans lexical"):
            compare(new, worse(new), gate)
        whole = changed(new, locator="response", position="own")
        assert np.isfinite(gate_logits(whole.probe, gate)).all()
        with pytest.raises(NoComparisonError, match="predicting rows"):
            gate_logits(replace(whole.probe, position="predicting"), gate)

    def test_a_probe_of_another_model(self, made, tmp_path):
        folder, out = made
        old = worse(load_artifact(folder))
        write(tmp_path, replace(old, model=replace(old.model, architecture="Other")))
        with pytest.raises(ValueError, match="architecture"):
            publish(folder, out, tmp_path)

    def test_features_of_other_rows(self, made, tmp_path):
        _, out = made
        for path in out.iterdir():
            if path.name != "labels.jsonl":
                (tmp_path / path.name).symlink_to(path)
        lines = (out / "labels.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "labels.jsonl").write_text("".join(lines[::-1]))
        with pytest.raises(StageMismatchError, match="features of other rows"):
            read_gate(tmp_path)
        (tmp_path / "spans.settings.json").unlink()
        (tmp_path / "labels.jsonl").write_text("".join(lines))
        with pytest.raises(NoComparisonError, match=r"spans\.settings\.json is gone"):
            read_gate(tmp_path)


def residual_head(artifact, gate):
    """Of the second layer that the run kept."""
    from probes.probe import ResidualHead

    size = gate.residuals.groups["answer"].shape[2]
    weights = np.linspace(-1, 1, size, dtype=np.float32)
    return ResidualHead(gate.residuals.layers[1], weights, intercept=0.3)


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
