"""A bad reference is one clear line, and nothing half-made is left for the next run to trust."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from probes import models
from probes.decoding import stop_token_ids
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
from probes.packaged import SAMPLE, PackagedModel
from tests.reference.tiny_models import build_tiny
from tests.reference.tiny_tokenizer import tiny_tokenizer

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setenv("HGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    model = build_tiny("Llama", vocab_size=len(tiny_tokenizer()))
    model.save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def refuse(reference, message):
    with pytest.raises(ModelReferenceError, match=message) as caught:
        resolve_model(reference)
    assert "\n" not in str(caught.value)


# References


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


@pytest.mark.parametrize("content", [b"", b"GGUF", b"<html>not found</html>"])
def test_a_file_that_is_no_gguf_is_refused_and_leaves_nothing(tmp_path, cache, content):
    (tmp_path / "bad.gguf").write_bytes(content)
    refuse(str(tmp_path / "bad.gguf"), r"bad\.gguf is no GGUF model that can be converted")
    assert files_in(cache) == []


# Loading


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


# GGUF


def write_gguf(path, seed=0, add_bos=None):
    """A tiny Llama as llama.cpp writes it."""
    import gguf
    import numpy as np

    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    hidden, width, heads, vocabulary = 32, 48, 4, tiny_tokenizer().get_vocab()
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_block_count(2)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_types([3 if at < 3 else 1 for at in range(len(vocabulary))])
    merges = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.add_chat_template(tiny_tokenizer().chat_template)
    tensors = {"token_embd.weight": (len(vocabulary), hidden), "output_norm.weight": (hidden,)}
    tensors["output.weight"] = (len(vocabulary), hidden)
    for layer in range(2):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"blk.{layer}.{name}.weight"] = (hidden, hidden)
        tensors[f"blk.{layer}.ffn_gate.weight"] = tensors[f"blk.{layer}.ffn_up.weight"] = (width, hidden)
        tensors[f"blk.{layer}.ffn_down.weight"] = (hidden, width)
        tensors[f"blk.{layer}.attn_norm.weight"] = tensors[f"blk.{layer}.ffn_norm.weight"] = (hidden,)
    values = {name: draw.normal(size=shape).astype(np.float32) for name, shape in tensors.items()}
    for name, array in values.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@pytest.fixture
def tiny_gguf(tmp_path):
    return tmp_path / "toy.gguf", write_gguf(tmp_path / "toy.gguf")


def test_a_gguf_file_is_converted_once_into_a_folder_that_loads(tiny_gguf, cache, monkeypatch):
    path, values = tiny_gguf
    made = resolve_model(str(path))
    assert made.parent == cache / "models"
    assert made.name == f"toy-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    model = load_model(made, dtype="float32", device="cpu")
    expected = torch.from_numpy(values["blk.1.ffn_down.weight"]).bfloat16().float()
    assert torch.equal(model.model.layers[1].mlp.down_proj.weight, expected)
    assert load_tokenizer(made).chat_template == tiny_tokenizer().chat_template
    assert sorted(p.name for p in made.parent.iterdir()) == [made.name]  # the scratch folder is gone
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    assert resolve_model(str(path)) == made


@pytest.mark.parametrize("add_bos", [None, False, True])
def test_text_begins_with_the_token_that_the_file_wants_and_no_other(tmp_path, add_bos):
    write_gguf(tmp_path / "toy.gguf", add_bos=add_bos)
    tokenizer = load_tokenizer(resolve_model(str(tmp_path / "toy.gguf")))
    plain = tiny_tokenizer()("Who?").input_ids
    assert tokenizer("Who?").input_ids == ([tokenizer.bos_token_id, *plain] if add_bos else plain)


def known_by(sample_ids):
    return PackagedModel((), "", "", tuple(sample_ids), stop_tokens=("<|user|>",))


def test_what_ends_an_answer_beside_the_files_own_token_comes_through(tiny_gguf):
    path, _ = tiny_gguf
    plain = resolve_model(str(path))
    assert stop_token_ids(load_model(plain, device="cpu"), load_tokenizer(plain)) == {0}
    made = models._converted(path, "more", "0" * 64, known_by(tiny_tokenizer()(SAMPLE).input_ids))
    assert stop_token_ids(load_model(made, device="cpu"), load_tokenizer(made)) == {0, 1}


def test_a_tokenizer_that_another_transformers_makes_otherwise_is_refused(tiny_gguf, cache):
    with pytest.raises(ModelReferenceError, match=r"transformers \S+ makes another tokenizer of toy\.gguf .* newer"):
        models._converted(tiny_gguf[0], "toy", "0" * 64, known_by([1, 2, 3]))
    assert files_in(cache) == []


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_download_that_was_cut_short_is_refused(tiny_gguf, cache, share):
    path, _ = tiny_gguf
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refuse(str(path), "is no GGUF model that can be converted")
    assert files_in(cache) == []


def test_another_file_of_the_same_name_is_another_model(tiny_gguf, tmp_path):
    path, _ = tiny_gguf
    first = resolve_model(str(path))
    write_gguf(path, seed=1)
    assert resolve_model(str(path)) != first


def test_a_conversion_that_is_killed_leaves_no_folder_to_trust(tiny_gguf, cache, monkeypatch):
    path, _ = tiny_gguf

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("transformers.AutoTokenizer.from_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            resolve_model(str(path))
    assert files_in(cache) == []
    assert resolve_model(str(path)).exists()


def test_two_processes_that_convert_at_once_end_with_one_whole_folder(tiny_gguf, monkeypatch):
    path, _ = tiny_gguf
    real = Path.rename

    def someone_was_faster(self, target):
        if self.name == "model":
            target.mkdir()
            (target / "config.json").write_text("{}")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", someone_was_faster)
    made = resolve_model(str(path))
    assert (made / "config.json").read_text() == "{}"
    assert [p.name for p in made.parent.iterdir()] == [made.name]
