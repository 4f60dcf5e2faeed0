"""A tap whose hooks did not run, ran twice or belong to another model says so; and hooks go when they should."""

import numpy as np
import pytest
import torch

from probes.architectures import layer_widths
from probes.neurons import NeuronSet
from probes.tap import HeadTap, TapError
from tests.reference.tiny_models import ARCHITECTURES, build_tiny, shared_tiny
from tests.unit.probes.taps import IDS, pick, plain, run


def test_hooks_are_gone_after_the_block_also_after_an_error():
    model = build_tiny("DeepseekV3")
    tap = HeadTap(model, pick(model), range(40))
    with pytest.raises(ZeroDivisionError), tap.attached():
        raise ZeroDivisionError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_neuron_set_of_another_model_is_refused():
    llama = shared_tiny("Llama")
    with pytest.raises(ValueError, match="this one has"):
        HeadTap(llama, pick(shared_tiny("Mixtral")))
    with pytest.raises(ValueError, match="at least one"):
        HeadTap(llama, NeuronSet.from_flat(layer_widths(llama), np.zeros(0, dtype=int)))


def test_hazard_model_that_did_not_run():
    model = shared_tiny("Llama")
    tap = HeadTap(model, pick(model))
    run(model, tap)
    with tap.attached():
        tap.begin(2)
        with pytest.raises(TapError):
            tap.read()


def test_hazard_hooks_not_attached():
    model = shared_tiny("Llama")
    tap = HeadTap(model, pick(model))
    tap.begin(2)
    plain(model)
    with pytest.raises(TapError):
        tap.read()


def test_hazard_layer_replaced_after_the_tap_was_made():
    model = build_tiny("Llama")
    tap = HeadTap(model, pick(model))
    model.model.layers[1].mlp = build_tiny("Llama", seed=1).model.layers[1].mlp
    with pytest.raises(TapError, match=r"layers \[0, 0, 2, 2\] instead of \[0, 0, 1, 1, 2, 2\]"):
        run(model, tap)


def test_hazard_layers_swapped_after_the_tap_was_made():
    model = build_tiny("Llama")
    tap = HeadTap(model, pick(model))
    layers = model.model.layers
    layers[0], layers[1] = layers[1], layers[0]
    with pytest.raises(TapError):
        run(model, tap)


def test_hazard_layer_removed_after_the_tap_was_made():
    model = build_tiny("Mixtral")
    tap = HeadTap(model, pick(model))
    model.config.num_hidden_layers = 2
    del model.model.layers[2]
    with pytest.raises(TapError):
        run(model, tap)


def test_hazard_two_taps_attached_at_once_do_not_read_each_other():
    model = shared_tiny("Llama")
    one, other = HeadTap(model, pick(model, seed=1)), HeadTap(model, pick(model, seed=2))
    expected = run(model, one)[1]
    with other.attached():
        other.begin(2, last=None)
        assert torch.equal(run(model, one)[1], expected)
    assert torch.equal(other.read().cett, run(model, other)[1])


@pytest.mark.parametrize("name", ["Llama", "DeepseekV3"])
def test_attached_hooks_do_nothing_outside_of_begin_and_read(name):
    model = shared_tiny(name)
    tap = HeadTap(model, pick(model), range(40))
    expected = plain(model, IDS[:1])
    with tap.attached():
        tap.begin(2, alphas=torch.tensor([0.0, 0.0]))
        plain(model)
        tap.read()
        assert torch.equal(plain(model, IDS[:1]), expected)
        with pytest.raises(TapError):
            tap.read()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fewer_hooks_without_scaling_read_the_same(name):
    model = shared_tiny(name)
    tap = HeadTap(model, pick(model), range(40))
    _, expected = run(model, tap)
    with tap.attached(scales=False), torch.inference_mode():
        with pytest.raises(ValueError, match="scales=True"):
            tap.begin(2, alphas=torch.tensor([0.0, 0.0]))
        for ids in (IDS, IDS[:, :1]):
            tap.begin(2, last=None)
            model(ids)
            assert torch.allclose(tap.read().cett, expected[:, : ids.shape[1]], atol=1e-5)


def test_hazard_two_passes_after_one_begin():
    model = shared_tiny("Llama")
    tap = HeadTap(model, pick(model))
    with tap.attached():
        tap.begin(2)
        plain(model)
        plain(model)
        with pytest.raises(TapError):
            tap.read()
