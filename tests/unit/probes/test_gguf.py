"""A GGUF file becomes a folder that loads, once and whole, or nothing."""

import hashlib
from pathlib import Path

import pytest
import torch

from probes import models
from probes.decoding import stop_token_ids
from probes.models import ModelReferenceError, load_model, load_tokenizer, resolve_model
from probes.packaged import SAMPLE, PackagedModel
from tests.reference.tiny_tokenizer import tiny_tokenizer
from tests.unit.probes.model_files import files_in, refuse, write_gguf

torch.set_num_threads(1)

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"<html>not found</html>"])
def test_a_file_that_is_no_gguf_is_refused_and_leaves_nothing(tmp_path, cache, content):
    (tmp_path / "bad.gguf").write_bytes(content)
    refuse(str(tmp_path / "bad.gguf"), r"bad\.gguf is no GGUF model that can be converted")
    assert files_in(cache) == []


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
