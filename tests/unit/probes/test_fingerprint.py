"""A probe is refused by every model but its own, in words that name the difference."""

import pytest
import torch

from probes.fingerprint import ModelMismatchError, check_model
from tests.reference.tiny_models import build_tiny
from tests.reference.tiny_tokenizer import TEMPLATE, tiny_tokenizer
from tests.unit.probes.artifacts import build_model

torch.set_num_threads(1)


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
