import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from probes.architectures import layer_widths
from probes.cett import column_norms
from probes.checkpoint import Checkpoint
from probes.models import ModelReferenceError
from probes.neurons import NeuronSet
from tests.reference.slow_engine import downs_of
from tests.reference.tiny_models import ARCHITECTURES, MIXTURES, build_tiny


def saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


def some_neurons(widths) -> NeuronSet:
    return NeuronSet.from_flat(widths, np.random.default_rng(0).choice(sum(widths), size=20, replace=False))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_widths_and_norms_are_those_of_the_loaded_model(name, tmp_path):
    model = build_tiny(name)
    checkpoint = Checkpoint(saved(model, tmp_path))
    assert checkpoint.widths == layer_widths(model)
    assert sum(checkpoint.block_widths) == sum(checkpoint.widths)
    neurons = some_neurons(checkpoint.widths)
    whole = [torch.cat([column_norms(w) for w in downs_of(layer.mlp)]) for layer in model.model.layers]
    expected = [whole[layer][j].item() for layer, j in zip(neurons.layer, neurons.index, strict=True)]
    assert checkpoint.column_norms(neurons).tolist() == expected
    assert all(parameter.is_meta for parameter in checkpoint.skeleton.parameters())


BLOCKS = {
    "Llama": ["layers.0.mlp.down_proj", "layers.1.mlp.down_proj", "layers.2.mlp.down_proj"],
    "Mixtral": ["layers.0.block_sparse_moe", "layers.1.block_sparse_moe", "layers.2.block_sparse_moe"],
    "Qwen3Moe": ["layers.0.mlp", "layers.1.mlp.down_proj", "layers.2.mlp"],
    "DeepseekV3": ["layers.0.mlp.down_proj", "layers.1.mlp", "layers.1.mlp", "layers.2.mlp", "layers.2.mlp"],
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_have_the_names_of_the_checkpoint(name, tmp_path):
    checkpoint = Checkpoint(saved(build_tiny(name), tmp_path))
    blocks = checkpoint.blocks
    assert [block.output for block in blocks] == [f"model.{name}" for name in BLOCKS[name]]
    assert all(block.gives_h == block.module.endswith(".mlp.down_proj") for block in blocks)
    with safe_open(tmp_path / "model.safetensors", "pt") as tensors:
        stored = tensors.keys()
    for block in blocks:
        assert block.module.startswith(block.output)
        assert bool(block.expert_width) == block.module.endswith(".experts")
        assert any(name.startswith(block.module + ".") for name in stored)


@pytest.mark.parametrize("name", MIXTURES)
def test_rows_of_routed_neurons_are_those_of_the_loaded_model(name, tmp_path):
    model = build_tiny(name)
    checkpoint = Checkpoint(saved(model, tmp_path))
    neurons = NeuronSet.from_flat(checkpoint.widths, np.arange(sum(checkpoint.widths))[::7])
    rows = checkpoint.routed_rows(neurons)
    expected = []
    for place, (layer, j) in enumerate(zip(neurons.layer, neurons.index, strict=True)):
        experts = getattr(model.model.layers[layer].mlp, "experts", None)
        if experts is None or j >= experts.down_proj.shape[0] * experts.down_proj.shape[2]:
            continue
        size = experts.down_proj.shape[2]
        gate, up = experts.gate_up_proj[j // size].chunk(2)
        down = experts.down_proj[j // size]
        expected.append((place, j // size, torch.stack([gate[j % size], up[j % size], down[:, j % size]])))
    assert 0 < len(expected) <= len(neurons)
    assert rows.places.tolist() == [place for place, *_ in expected]
    assert rows.experts.tolist() == [expert for _, expert, _ in expected]
    assert torch.equal(torch.from_numpy(rows.weights), torch.stack([weights for *_, weights in expected]))


def test_a_dense_model_has_no_routed_rows(tmp_path):
    checkpoint = Checkpoint(saved(build_tiny("Llama"), tmp_path))
    rows = checkpoint.routed_rows(some_neurons(checkpoint.widths))
    assert (len(rows.places), len(rows.experts), len(rows.weights)) == (0, 0, 0)


def test_hazard_a_checkpoint_in_shards_or_in_bfloat16(tmp_path):
    model = build_tiny("Llama", dtype=torch.bfloat16)
    checkpoint = Checkpoint(saved(model, tmp_path, max_shard_size="20KB"))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    neurons = some_neurons(checkpoint.widths)
    whole = [column_norms(layer.mlp.down_proj.weight) for layer in model.model.layers]
    expected = [whole[layer][j].item() for layer, j in zip(neurons.layer, neurons.index, strict=True)]
    assert checkpoint.column_norms(neurons).tolist() == expected
    assert checkpoint.column_norms(neurons).dtype == np.float32


def test_layers_without_neurons_are_not_read(tmp_path):
    checkpoint = Checkpoint(saved(build_tiny("Llama"), tmp_path))
    read = []
    tensor = checkpoint._tensor
    checkpoint._tensor = lambda name: read.append(name) or tensor(name)
    checkpoint.column_norms(NeuronSet.from_flat(checkpoint.widths, np.asarray([50])))
    assert read == ["model.layers.1.mlp.down_proj.weight"]


def test_hazard_whole_experts_are_read_for_a_few_neurons(tmp_path):
    checkpoint = Checkpoint(saved(build_tiny("Qwen3Moe"), tmp_path))
    read = []

    class File:
        def __init__(self, name):
            self.file = file_of(name)

        def get_tensor(self, name):
            read.append((name, "whole"))
            return self.file.get_tensor(name)

        def get_slice(self, name):
            found = self.file.get_slice(name)

            class Slice:
                def __getitem__(self, key):
                    read.append((name.rpartition("experts.")[2], tuple(found[key].shape)))
                    return found[key]

            return Slice()

    file_of, checkpoint._file_of = checkpoint._file_of, File
    neurons = NeuronSet.from_flat(checkpoint.widths, np.asarray([25, 50]))  # of the second and third expert
    checkpoint.column_norms(neurons)
    columns = [("1.down_proj.weight", (32, 1)), ("2.down_proj.weight", (32, 1))]
    assert read == columns
    read.clear()
    checkpoint.routed_rows(neurons)
    rows = [[(f"{expert}.{part}_proj.weight", (1, 32)) for part in ("gate", "up")] for expert in (1, 2)]
    assert read == [*rows[0], columns[0], *rows[1], columns[1]]


def test_generation_config_comes_along(tmp_path):
    model = build_tiny("Llama")
    model.generation_config.eos_token_id = [2, 7]
    assert Checkpoint(saved(model, tmp_path)).skeleton.generation_config.eos_token_id == [2, 7]


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ModelReferenceError, match="holds no model"):
        Checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(ModelReferenceError, match="holds no model"):
        Checkpoint(tmp_path)
    checkpoint = Checkpoint(saved(build_tiny("Llama"), tmp_path))
    with pytest.raises(ValueError, match="layer widths"):
        checkpoint.column_norms(some_neurons((48, 48)))
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelReferenceError, match=r"has no model\.layers"):
        checkpoint.column_norms(some_neurons(checkpoint.widths))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelReferenceError, match="safetensors"):
        checkpoint.column_norms(some_neurons(checkpoint.widths))
