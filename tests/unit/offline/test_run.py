"""Which engine samples and extracts, and that rows of different ones are never mixed."""

from pathlib import Path

import pytest
import torch

from offline import run as module
from offline.extraction.extract_vllm import VllmExtractor
from offline.run import Run, RunConfig
from offline.train_probe import parse_arguments
from tests.reference.tiny_models import tiny_config
from tests.reference.tiny_tokenizer import tiny_tokenizer


def make_run(folder, name="Llama", **options):
    """A run of a tiny model of which only the configuration is there."""
    config = tiny_config(name)
    config.architectures = [f"{name}ForCausalLM"]
    config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return Run(RunConfig(model=str(folder), questions=(), out=folder, **options))


@pytest.fixture
def gpu_and_vllm(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    monkeypatch.setattr(module, "pick_device", lambda name: torch.device("cuda"))


def test_without_a_gpu_auto_is_transformers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    run = make_run(tmp_path, device="cpu")
    assert not run.samples_on_vllm
    assert not run.extracts_on_vllm


def test_beside_a_gpu_auto_is_vllm_but_experts_are_extracted_by_transformers(tmp_path, gpu_and_vllm):
    dense, mixture = make_run(tmp_path / "a"), make_run(tmp_path / "b", "Mixtral")
    assert (dense.samples_on_vllm, dense.extracts_on_vllm) == (True, True)
    assert (mixture.samples_on_vllm, mixture.extracts_on_vllm) == (True, False)


def test_what_is_named_is_taken(tmp_path, gpu_and_vllm):
    run = make_run(tmp_path, sampler="vllm", extractor="transformers")
    assert (run.samples_on_vllm, run.extracts_on_vllm) == (True, False)


def test_experts_are_refused_in_words_where_vllm_is_named(tmp_path):
    make_run(tmp_path, "Qwen3Moe")
    with pytest.raises(ValueError, match=r"layer 0 is a mixture of experts.*--extractor transformers"):
        VllmExtractor(tmp_path, max_length=8)


@pytest.mark.parametrize("option", ["sampler", "extractor"])
def test_without_vllm_it_is_refused_before_anything_is_done(tmp_path, monkeypatch, option):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"--{option} vllm: .*make vllm"):
        make_run(tmp_path, **{option: "vllm"})


def test_features_of_two_extractors_are_not_mixed(tmp_path, gpu_and_vllm):
    found = [
        make_run(tmp_path, extractor=extractor, dtype=dtype).extraction_settings
        for extractor in ("transformers", "vllm")
        for dtype in ("auto", "float32")
    ]
    assert [row["dtype"] for row in found] == ["torch.bfloat16", "torch.float32"] * 2
    assert len({str(row) for row in found}) == 4


def test_settings_of_a_complete_run_need_no_model(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    monkeypatch.setattr(module, "resolve_model", None)
    assert run.sampling_settings["model"] == run.config.model


def test_the_command_line_names_the_extractor():
    known = ["--questions", "q.jsonl", "--out", "x"]
    assert parse_arguments(known).extractor == "auto"
    assert parse_arguments([*known, "--extractor", "vllm"]).extractor == "vllm"
    assert parse_arguments(known).out == Path("x")
