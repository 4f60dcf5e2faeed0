"""A folder that was changed, forged or cut short is one clear error and no probe."""

import hashlib
import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from probes.artifact import ArtifactError, load_artifact

torch.set_num_threads(1)


def rewrite_json(folder, change):
    described = json.loads((folder / "probe.json").read_text())
    change(described)
    (folder / "probe.json").write_text(json.dumps(described))


def rewrite_tensors(folder, change):
    """A careful forger: the hash in probe.json fits again."""
    arrays = load((folder / "probe.safetensors").read_bytes())
    change(arrays)
    data = save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    (folder / "probe.safetensors").write_bytes(data)
    rewrite_json(folder, lambda d: d.update(tensors_sha256=hashlib.sha256(data).hexdigest()))


def test_loading_executes_nothing_that_lies_in_the_folder(saved, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    (saved / "estimator.joblib").write_bytes(pickle.dumps(Bomb()))
    load_artifact(saved)
    (saved / "probe.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ArtifactError, match="not the file that"):
        load_artifact(saved)
    data = pickle.dumps(Bomb())
    rewrite_json(saved, lambda d: d.update(tensors_sha256=hashlib.sha256(data).hexdigest()))
    with pytest.raises(ArtifactError, match="SafetensorError"):
        load_artifact(saved)
    assert not (tmp_path / "boom").exists()


def test_one_flipped_bit_of_the_tensors_is_found(saved):
    path = saved / "probe.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=r"probe\.safetensors is not the file that probe\.json was written with"):
        load_artifact(saved)


@pytest.mark.parametrize("version", [0, 1, 2, 4, "3", None])
def test_another_schema_version_is_named(saved, version):
    rewrite_json(saved, lambda d: d.update(schema_version=version))
    with pytest.raises(ArtifactError, match=f"schema version {version}, this hguard reads 3"):
        load_artifact(saved)


@pytest.mark.parametrize("missing", ["probe.json", "probe.safetensors"])
def test_a_missing_file_is_named(saved, missing):
    (saved / missing).unlink()
    with pytest.raises(ArtifactError, match=missing):
        load_artifact(saved)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe{}", b"[" * 100_000])
def test_a_file_that_is_no_artifact_is_one_clear_error(saved, text):
    (saved / "probe.json").write_bytes(text)
    with pytest.raises(ArtifactError, match=str(saved.parent)):
        load_artifact(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("probe"),
        lambda d: d.pop("card"),
        lambda d: d.update(probe=None),
        lambda d: d.update(model=[]),
        lambda d: d["model"].update(widths=[1.5, "a"]),
        lambda d: d["model"].update(widths=7),
        lambda d: d["model"].update(unknown=1),
        lambda d: d["probe"].update(threshold=1.5),
        lambda d: d["probe"].update(threshold="0.5"),
        lambda d: d["probe"].update(intercept=float("nan")),
        lambda d: d["probe"].update(position="sideways"),
        lambda d: d["probe"]["risk"]["calibration"].update(slope=-1),
        lambda d: d["probe"]["risk"]["calibration"].update(kind="magic", points=[[0, 0], [1, 1]]),
        lambda d: d["probe"]["risk"].update(calibration=None),
        lambda d: d["probe"]["risk"]["weights"].update(cett=-1.0),
        lambda d: d["probe"]["risk"]["weights"].update(min_logprob=0.1),
        lambda d: d["probe"]["risk"]["weights"].update(luck=0.1),
        lambda d: d["probe"]["risk"]["weights"].update(cett="1"),
        lambda d: d["probe"]["risk"].update(weights={}),
        lambda d: d["probe"]["risk"].update(weights=None),
        lambda d: d["probe"]["risk"].update(intercept=float("inf")),
        lambda d: d["probe"].pop("risk"),
        lambda d: d["probe"]["domain"]["ranges"].update(cett=[0.0, 0.0, 1.0]),
        lambda d: d["probe"]["domain"]["ranges"].update(cett=[0.0, 1.0]),
        lambda d: d["probe"]["domain"].update(cutoff=0),
        lambda d: d["probe"]["domain"].update(ranges={}),
        lambda d: d["probe"].pop("domain"),
        lambda d: d["probe"]["budgets"].reverse(),
        lambda d: d["probe"]["budgets"][0].update(threshold=0.1),
        lambda d: d["probe"]["budgets"][0].update(fpr=0),
        lambda d: d["probe"]["budgets"][0].update(low=0.95),
        lambda d: d["probe"].pop("budgets"),
        lambda d: d["probe"].update(extra=1),
    ],
)
def test_a_field_that_makes_no_probe_is_an_artifact_error(saved, change):
    rewrite_json(saved, change)
    with pytest.raises(ArtifactError, match=str(saved)):
        load_artifact(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("weights"), "weights"),
        (lambda a: a.update(weights=a["weights"][:-1]), "neurons"),
        (lambda a: a.update(weights=a["weights"] * np.float32("nan")), "finite"),
        (lambda a: a.update(index=a["index"] + 1000), "does not exist"),
        (lambda a: a.update(index=a["index"] * 0), "flat order"),
        (lambda a: a.update(layer=a["layer"].astype(np.float32)), "IndexError"),
        (lambda a: a.update(golden_scores=a["golden_scores"][:-1]), "do not add up"),
        (lambda a: a.update(golden_scores=a["golden_scores"] * np.float32("inf")), "golden scores are not finite"),
        (lambda a: a.update(golden_prompt_lengths=np.array([6, 0])), "empty prompt"),
        (lambda a: a.update(golden_response_lengths=np.zeros(0, dtype=np.int64)), "do not add up"),
    ],
)
def test_tensors_that_make_no_probe_are_named(saved, change, message):
    rewrite_tensors(saved, change)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(saved)
