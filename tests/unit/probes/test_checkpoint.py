import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from probes.architectures import UnsupportedArchitectureError, layer_widths
from probes.cett import column_norms
from probes.checkpoint import Checkpoint
from probes.models import ModelReferenceError
from probes.neurons import NeuronSet
from tests.reference.tiny_models import ARCHITECTURES, MIXTURES, build_tiny

DENSE = [name for name in ARCHITECTURES if name not in MIXTURES]


def saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


def some_neurons(widths) -> NeuronSet:
    return NeuronSet.from_flat(widths, np.random.default_rng(0).choice(sum(widths), size=20, replace=False))


@pytest.mark.parametrize("name", DENSE)
def test_names_widths_and_norms_are_those_of_the_loaded_model(name, tmp_path):
    model = build_tiny(name)
    checkpoint = Checkpoint(saved(model, tmp_path))
    assert checkpoint.widths == layer_widths(model)
    assert len(checkpoint.down_projections) == len(checkpoint.widths)
    neurons = some_neurons(checkpoint.widths)
    weights = [model.get_submodule(path).weight for path in checkpoint.down_projections]
    expected = [column_norms(weights[layer])[j].item() for layer, j in zip(neurons.layer, neurons.index, strict=True)]
    assert checkpoint.column_norms(neurons).tolist() == expected
    assert all(parameter.is_meta for parameter in checkpoint.skeleton.parameters())


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_of_experts_is_refused_by_the_name_of_the_engine_that_serves_it(name, tmp_path):
    checkpoint = Checkpoint(saved(build_tiny(name), tmp_path))
    with pytest.raises(UnsupportedArchitectureError, match="HGUARD_ENGINE=transformers"):
        _ = checkpoint.down_projections


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
