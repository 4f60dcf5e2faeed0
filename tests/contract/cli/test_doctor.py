"""`hguard doctor`: each thing that can be wrong is made wrong, and the line that says so names the fix."""

import shutil
import subprocess
import sys

import pytest

from probes.artifact import load_artifact
from probes.models import DEFAULT_MODEL, find_model, resolve_model
from probes.registry import LIBRARY
from service.cli.main import main
from tests.contract import spoiling
from tests.contract.tiny import save_tiny

pytestmark = pytest.mark.usefixtures("as_an_operator")
SHIPPED = next((LIBRARY / DEFAULT_MODEL).iterdir())


def test_a_sound_machine_has_no_failure_and_is_left_as_it_was(doctor, tmp_path):
    assert doctor("golden trace", "--json", engine="fake")[0] == "ok"
    assert not list(tmp_path.iterdir())


def test_without_json_it_is_a_line_a_check_and_one_for_the_fix(capsys, monkeypatch):
    monkeypatch.setenv("HGUARD_ENGINE", "fake")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")].count("ok") > 8
    assert any(line.startswith("warn  model") for line in lines)
    assert any(line.strip() == "-> for tests only" for line in lines)


@pytest.mark.parametrize(
    ("name", "value", "words"), [("PORT", "http", "HGUARD_PORT="), ("MODLE", "x", "did you mean HGUARD_MODEL")]
)
def test_settings(doctor, name, value, words):
    level, found, fix = doctor("settings", **{name: value})
    assert level == "fail"
    assert words in found
    assert "hguard serve --help" in fix
    assert doctor("model") is None  # what needs settings is not guessed


@pytest.mark.parametrize(("text", "level"), [(None, "fail"), ("[[keys]]\nname = 1", "fail"), ("keys = []", "warn")])
def test_a_file_of_keys(doctor, tmp_path, text, level):
    if text is not None:
        (tmp_path / "keys.toml").write_text(text)
    assert doctor("keys", engine="fake", api_keys_file=tmp_path / "keys.toml")[0] == level


def test_folders_that_cannot_be_written(doctor, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(file))  # no folder can be made in it
    assert doctor("labels", engine="fake")[0] == "fail"
    assert doctor("audit log", engine="fake", audit_log=tmp_path / "nowhere" / "audit.jsonl")[0] == "fail"
    assert doctor("probes dir", engine="fake", probes_dir=tmp_path / "nowhere")[0] == "warn"  # the service serves
    assert not (tmp_path / "nowhere").exists()
    assert "a restart forgets" in str(doctor("probes dir", engine="fake", probes_dir=file / "nowhere"))
    assert doctor("labels", engine="fake", feedback_url="mysql://x")[0] == "fail"
    assert "secret" not in str(doctor("labels", engine="fake", feedback_url="postgresql://me:secret@db/hguard"))
    assert doctor("labels", engine="fake", feedback_url="off")[0] == "ok"


def test_files_that_are_there_and_cannot_be_used(doctor, tmp_path):
    level, found, _ = doctor("audit log", engine="fake", audit_log=tmp_path)
    assert (level, "Is a directory" in found) == ("fail", True)
    (tmp_path / "audit.jsonl").touch()
    assert doctor("audit log", audit_log=tmp_path / "audit.jsonl")[0] == "ok"
    file = tmp_path / "labels.db"
    for text, level in ((b"", "ok"), (b"SQLite format 3\0...", "ok"), (b"not a database at all", "fail")):
        file.write_bytes(text)
        assert doctor("labels", feedback_url=f"sqlite:///{file}")[0] == level
        assert file.read_bytes() == text


def test_tracing_that_cannot_be_sent(doctor, monkeypatch):
    assert doctor("tracing", engine="fake") is None
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)  # not installed
    level, found, _ = doctor("tracing", engine="fake", otel=1)
    assert (level, "HGUARD_OTEL" in found or "OpenTelemetry" in found) == ("fail", True)


def test_a_device_that_torch_does_not_know(doctor):
    for device in ("tpu", "cuda:x"):
        level, found, fix = doctor("gpu", engine="fake", device=device)
        assert (level, f"HGUARD_DEVICE={device}" in found, "cuda:N" in fix) == ("fail", True, True)


def test_a_model_that_is_not_there(doctor, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "config.json" in doctor("model", model=tmp_path / "empty")[1]
    level, found, _ = doctor("model", model="nowhere.gguf")
    assert (level, "does not exist" in found) == ("fail", True)
    assert doctor("model", model="not a name!")[0] == "fail"
    level, _, fix = doctor("model", model=DEFAULT_MODEL, cache=tmp_path / "cache")
    assert (level, "downloads" in fix) == ("warn", True)
    assert doctor("golden trace", "--json")[0] == "warn"  # nothing is downloaded to run it
    assert not (tmp_path / "cache").exists()


def test_a_disk_that_is_too_full_for_the_model(doctor, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        level, found, fix = doctor("model", model=DEFAULT_MODEL, cache=place / "cache")
        assert (level, "0.0 GB are free" in found) == ("fail", True)
        assert "HGUARD_CACHE" in fix
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_model_that_no_probe_was_trained_on(doctor, tmp_path):
    level, found, fix = doctor("probe", model=save_tiny(tmp_path / "tiny"))
    assert (level, "no probe for this" in found) == ("fail", True)
    assert "hguard-train" in fix
    level, found, _ = doctor("probe", probe=f"{DEFAULT_MODEL}@1.3.0")
    assert (level, "widths" in found or "architecture" in found or "hidden_size" in found) == ("fail", True)


def test_a_damaged_probe(doctor, tmp_path):
    for version in ("1", "2"):
        shutil.copytree(SHIPPED, tmp_path / "mine" / "copy" / version)
    spoiling.swap_weights(tmp_path / "mine" / "copy" / "1", None)
    level, found, _ = doctor("probes", engine="fake", probes_dir=tmp_path / "mine")
    assert (level, "probe.safetensors" in found or "rename" in found) == ("warn", True)
    assert doctor("probe", engine="fake", probe="copy@1")[0] == "fail"


def test_a_probe_of_other_weights(doctor, tmp_path):
    if find_model(DEFAULT_MODEL) is None:
        pytest.skip("the default model is not here")
    artifact = load_artifact(SHIPPED)
    folder = tmp_path / "mine" / artifact.probe.name / artifact.probe.version
    shutil.copytree(SHIPPED, folder)
    spoiling.write_again(spoiling.of_other_weights)(folder, artifact)
    level, found, _ = doctor("probe", probes_dir=tmp_path / "mine")
    assert (level, "column norm" in found) == ("fail", True)


def test_an_engine_that_scores_wrongly(doctor):
    level, found, fix = doctor("golden trace", "--json", engine="fake", fake_fault="nan_scores")
    assert (level, "golden_trace" in found) == ("fail", True)
    assert "HGUARD_PROBE" in fix


def test_a_model_that_does_not_load(doctor, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("service.lifecycle.load_engine", refuse)
    level, found, fix = doctor("golden trace", "--json", engine="fake")
    assert (level, "model: " in found, "HGUARD_MODEL" in fix) == ("fail", True, True)


@pytest.mark.slow
def test_the_golden_trace_runs_on_the_real_engine(doctor, tmp_path):
    resolve_model(DEFAULT_MODEL)
    assert doctor("golden trace", "--json", device="cpu")[0] == "ok"
    artifact = load_artifact(SHIPPED)
    folder = tmp_path / "mine" / artifact.probe.name / artifact.probe.version
    shutil.copytree(SHIPPED, folder)
    spoiling.write_again(spoiling.with_another_trace)(folder, artifact)
    level, found, _ = doctor("golden trace", "--json", device="cpu", probes_dir=tmp_path / "mine")
    assert (level, "standard deviations away" in found) == ("fail", True)
