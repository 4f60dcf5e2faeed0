"""A bad reference is one clear line, and nothing half-made is left for the next run to trust."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from probes.models import (
    DEFAULT_MODEL,
    ModelReferenceError,
    cache_folder,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
    resolve_model,
)
from tests.reference.tiny_models import build_tiny
from tests.reference.tiny_tokenizer import tiny_tokenizer
from tests.unit.probes.model_files import refuse

torch.set_num_threads(1)

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path):
    model = build_tiny("Llama", vocab_size=len(tiny_tokenizer()))
    model.save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.parametrize(
    "reference", ["nobody/nothing", "nobody/nothing@main", "/no/such/folder", "not a name", "a/b/c"]
)
def test_what_is_nothing_at_all_is_told_what_it_could_be(reference):
    refuse(
        reference, rf"{reference}.*no packaged model \({DEFAULT_MODEL}.*no folder and no \.gguf file.*Hugging Face id"
    )


def test_a_gguf_file_that_is_not_there_is_named():
    refuse("models/none.gguf", r"models/none\.gguf does not exist")


def test_a_folder_that_holds_no_model_is_named(tmp_path):
    refuse(str(tmp_path), r"has no config\.json: give the folder that save_pretrained wrote")


def test_a_folder_is_itself_whole_and_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert resolve_model("tiny") == folder
    assert resolve_model(str(folder)) == folder


def test_a_loaded_model_is_the_saved_one_in_eval_mode(folder):
    model = load_model(folder, dtype="float32", device="cpu")
    assert not model.training
    assert next(model.parameters()).dtype == torch.float32
    assert torch.equal(model.lm_head.weight, load_file(folder / "model.safetensors")["lm_head.weight"])
    assert load_tokenizer(folder).get_vocab() == tiny_tokenizer().get_vocab()


def test_missing_weights_are_an_error_and_not_random_numbers(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelReferenceError, match=r"1 weights are missing \(model\.layers\.1\.mlp\.down_proj\.weight"):
        load_model(folder, device="cpu")


def test_hazard_a_pickled_checkpoint_is_unpickled(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelReferenceError, match="safetensors"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("text", ["{}", "nonsense", '{"model_type": "nope"}'])
def test_a_broken_folder_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelReferenceError, match="can be loaded: ") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)


def test_dtypes_and_devices_are_picked_by_name(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert pick_dtype("auto", cpu) == torch.float32
    assert pick_dtype("auto", cuda) == torch.bfloat16
    assert pick_dtype("float16", cpu) == torch.float16
    for wrong in ("int8", "nn", "float31", ""):
        with pytest.raises(ModelReferenceError, match="use float32"):
            pick_dtype(wrong, cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == cuda
    assert pick_device("cpu") == cpu
    assert pick_device("cuda:1") == torch.device("cuda", 1)


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("HGUARD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "hguard"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "hguard"
