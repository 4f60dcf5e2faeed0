"""A rerun of the last stage: it redoes nothing that is finished, and takes nothing else for finished."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from offline import build as build_module
from offline.build import build_artifact, find_finished
from offline.features.residuals import extract_residuals
from offline.fitting.probe import fit_probe
from probes.artifact import load_artifact
from tests.unit.offline.tiny_run import make_run

torch.set_num_threads(1)


def test_a_rerun_finds_the_finished_artifact(built):
    run, _, _, folder = built
    assert find_finished(run.config, "upstream", "tiny", "1.0.0") == folder
    assert find_finished(run.config, "upstream", "tiny", "1.0.1") is None
    assert find_finished(run.config, "upstream", "other", "1.0.0") is None


def test_a_run_that_was_moved_is_still_finished(built, tmp_path):
    run, *_ = built
    moved = tmp_path / "elsewhere"
    shutil.copytree(run.out, moved)
    assert find_finished(replace(run.config, out=moved), "upstream", "tiny", "1.0.0") == moved / "artifact/tiny/1.0.0"


def test_an_artifact_of_other_settings_is_not_taken_for_this_one(built):
    run, *_ = built
    with pytest.raises(FileExistsError, match="choose another --version, or delete it"):
        find_finished(run.config, "other upstream", "tiny", "1.0.0")
    with pytest.raises(FileExistsError, match="choose another --version"):
        find_finished(replace(run.config, max_per_mille=0.5), "upstream", "tiny", "1.0.0")


def test_an_artifact_of_an_older_format_is_not_taken_for_finished(built, monkeypatch):
    run, *_ = built
    monkeypatch.setattr(build_module, "SCHEMA_VERSION", 99)
    with pytest.raises(FileExistsError, match="choose another --version"):
        find_finished(run.config, "upstream", "tiny", "1.0.0")


@pytest.mark.usefixtures("without_baselines")
def test_a_kill_before_the_manifest_does_not_make_a_finished_artifact(built, tmp_path, monkeypatch):
    _, table, fitted, _ = built

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build_module, "write_json", killed)
    run = make_run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        build_artifact(run, table, fitted, "upstream", name="tiny", version="1.0.0")
    with pytest.raises(FileExistsError, match="delete it"):
        find_finished(run.config, "upstream", "tiny", "1.0.0")


def test_a_refit_after_a_kill_takes_the_finished_paths(built, monkeypatch):
    run, table, fitted, _ = built
    monkeypatch.setattr("offline.fitting.choose._fit_without", None)  # nothing is left to fit in cross-validation
    again = fit_probe(run, table, extract_residuals(run, table, "upstream"), "upstream")
    assert again.candidate.as_row() == fitted.candidate.as_row()
    np.testing.assert_array_equal(again.fit.columns, fitted.fit.columns)


def test_the_manifest_is_bound_to_the_written_files(built):
    run, _, _, folder = built
    manifest = json.loads((run.out / "artifact.manifest.json").read_text())
    assert manifest["sha256"] == load_artifact(folder).sha256
