"""A wrong model, a changed file or a silent hook must not give a score that looks right."""

import hashlib
import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from probes import artifact as module
from probes.artifact import (
    GOLDEN_TOLERANCE,
    ArtifactError,
    GoldenTrace,
    golden_error,
    load_artifact,
    save_artifact,
)
from probes.calibration import Calibration
from probes.fingerprint import ModelMismatchError, check_model
from tests.reference.tiny_models import build_tiny
from tests.reference.tiny_tokenizer import TEMPLATE, tiny_tokenizer
from tests.unit.probes.artifacts import PROMPTS, RESPONSES, build_model, make_artifact, score_golden

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture(scope="module")
def artifact(model):
    return make_artifact(model)


@pytest.fixture
def saved(tmp_path, artifact):
    save_artifact(tmp_path / "tiny" / "1.0.0", artifact, "# card\n")
    return tmp_path / "tiny" / "1.0.0"


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


# Round trip


@pytest.mark.parametrize(
    "calibration",
    [Calibration("platt", slope=1 / 3, offset=-0.1), Calibration("isotonic", points=((-1.5, 0.1), (1 / 3, 0.7)))],
)
@pytest.mark.parametrize("position", ["own", "predicting"])
def test_an_artifact_comes_back_bit_for_bit(tmp_path, model, calibration, position):
    written = make_artifact(model, position=position, calibration=calibration, locator="response")
    made = save_artifact(tmp_path / "p" / "1", written, "# card é\n")
    read = load_artifact(tmp_path / "p" / "1")
    assert read.probe.neurons.widths == written.probe.neurons.widths
    for name in ("weights", "norms"):
        np.testing.assert_array_equal(getattr(read.probe, name), getattr(written.probe, name))
        assert getattr(read.probe, name).dtype == np.float32
    np.testing.assert_array_equal(read.probe.neurons.flat, written.probe.neurons.flat)
    for name in ("name", "version", "intercept", "position", "threshold", "locator", "risk_model", "domain", "budgets"):
        assert getattr(read.probe, name) == getattr(written.probe, name)
    assert read.model == written.model
    assert read.card == written.card
    assert (read.golden.prompt_ids, read.golden.response_ids) == (PROMPTS, RESPONSES)
    for found, expected in zip(read.golden.scores, written.golden.scores, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert made.sha256 == read.sha256
    assert len(read.sha256) == 64
    assert (tmp_path / "p" / "1" / "README.md").read_text(encoding="utf-8") == "# card é\n"


def test_an_artifact_is_never_overwritten(saved, artifact):
    before = (saved / "probe.json").read_bytes()
    with pytest.raises(FileExistsError, match="choose another version"):
        save_artifact(saved, artifact, "other")
    assert (saved / "probe.json").read_bytes() == before


def test_a_kill_while_saving_leaves_no_artifact(tmp_path, artifact, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        save_artifact(tmp_path / "tiny" / "1.0.0", artifact, "x")
    assert list((tmp_path / "tiny").iterdir()) == []


def test_a_card_with_nan_is_refused_before_anything_is_written(tmp_path, artifact):
    with pytest.raises(ValueError, match="JSON"):
        save_artifact(tmp_path / "tiny" / "1.0.0", replace(artifact, card={"auroc": float("nan")}), "x")
    assert list((tmp_path / "tiny").iterdir()) == []


# Damage


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


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_another_schema_version_is_named(saved, version):
    rewrite_json(saved, lambda d: d.update(schema_version=version))
    with pytest.raises(ArtifactError, match=f"schema version {version}, this hguard reads 2"):
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


# The model binding


def refuse(artifact, model, message, *, tokenizer=None):
    with pytest.raises(ModelMismatchError, match=message):
        check_model(artifact.model, artifact.probe, model, tokenizer or tiny_tokenizer())


def test_the_model_it_was_trained_on_is_accepted_in_any_dtype(artifact, model):
    check_model(artifact.model, artifact.probe, model, tiny_tokenizer())
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        check_model(artifact.model, artifact.probe, build_model(dtype=dtype), tiny_tokenizer())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 56}, r"widths is \(48, 48, 48\) there and \(56, 56, 56\)"),
        ({"num_hidden_layers": 2}, "widths is"),
        ({"hidden_size": 64}, "hidden_size is 32 there and 64"),
        ({"vocab_size": 340}, "vocabulary_size is 330 there and 340"),
    ],
)
def test_a_model_of_other_sizes_is_refused_by_name(artifact, changes, message):
    refuse(artifact, build_model(**changes), message)


def test_another_architecture_of_the_same_sizes_is_refused(artifact):
    other = build_tiny("Qwen2", vocab_size=len(tiny_tokenizer()))
    refuse(artifact, other, "architecture is LlamaForCausalLM there and Qwen2ForCausalLM")


def test_another_tokenizer_is_refused(artifact, model):
    class Swapped:
        chat_template = TEMPLATE

        def get_vocab(self):
            vocabulary = dict(tiny_tokenizer().get_vocab())
            a, b, *_ = sorted(vocabulary)
            vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
            return vocabulary

    refuse(artifact, model, "tokenizer_sha256", tokenizer=Swapped())


@pytest.mark.parametrize("template", [TEMPLATE + " ", None])
def test_another_chat_template_is_refused(artifact, model, template):
    class Other:
        chat_template = template

        def get_vocab(self):
            return tiny_tokenizer().get_vocab()

    refuse(artifact, model, "chat_template_sha256", tokenizer=Other())


def test_a_changed_column_is_refused_by_layer_and_neuron(artifact):
    changed = build_model()
    neurons = artifact.probe.neurons
    layer, j = int(neurons.layer[5]), int(neurons.index[5])
    with torch.no_grad():
        changed.model.layers[layer].mlp.down_proj.weight[:, j] *= 1.05
    refuse(artifact, changed, f"neuron {j} of layer {layer} has column norm")


def test_a_shifted_layer_is_refused(artifact):
    shifted = build_model()
    shifted.model.layers = torch.nn.ModuleList([*shifted.model.layers[1:], shifted.model.layers[0]])
    refuse(artifact, shifted, "column norm")


def test_weights_that_are_no_numbers_are_refused(artifact):
    broken = build_model()
    with torch.no_grad():
        broken.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    refuse(artifact, broken, "column norm nan")


# The golden trace


def test_the_right_engine_departs_by_rounding_only(artifact, model):
    assert golden_error(artifact, score_golden(model, artifact.probe)) == 0.0
    half = score_golden(build_model(dtype=torch.bfloat16), artifact.probe)
    assert 0 < golden_error(artifact, half) < GOLDEN_TOLERANCE["bfloat16"]


def test_rows_that_are_off_by_one_are_far_out_of_tolerance(artifact, model):
    wrong = score_golden(model, artifact.probe, rule="predicting")
    assert golden_error(artifact, wrong) > max(GOLDEN_TOLERANCE.values())


def test_a_shifted_layer_is_far_out_of_tolerance(artifact):
    shifted = build_model()
    shifted.model.layers = torch.nn.ModuleList([*shifted.model.layers[1:], shifted.model.layers[0]])
    assert golden_error(artifact, score_golden(shifted, artifact.probe)) > max(GOLDEN_TOLERANCE.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_an_infinite_error(artifact, bad):
    scores = [row.copy() for row in artifact.golden.scores]
    scores[1][2] = bad
    assert golden_error(artifact, scores) == float("inf")


def test_missing_scores_are_an_infinite_error(artifact):
    scores = list(artifact.golden.scores)
    assert golden_error(artifact, []) == float("inf")
    assert golden_error(artifact, scores[:1]) == float("inf")
    assert golden_error(artifact, [scores[0], scores[1][:-1]]) == float("inf")
    assert golden_error(artifact, [*scores, scores[0]]) == float("inf")


def test_silent_hooks_that_score_zero_everywhere_are_found(artifact):
    assert golden_error(artifact, [np.zeros_like(row) for row in artifact.golden.scores]) > 0.5


def test_a_trace_without_scores_proves_nothing(artifact):
    empty = replace(artifact, golden=GoldenTrace((), (), ()))
    assert golden_error(empty, []) == float("inf")


def test_a_trace_of_one_token_still_has_a_scale(artifact):
    one = replace(artifact, golden=GoldenTrace(PROMPTS[:1], ((60,),), (np.float32([0.5]),)))
    assert golden_error(one, [np.float32([0.5])]) == 0.0
    assert golden_error(one, [np.float32([0.6])]) > 1  # and never nan, which no tolerance refuses
