"""What a tap reads and what alpha does, against recomputations by hand."""

import numpy as np
import pytest
import torch

from probes.architectures import feed_forwards, layer_widths
from probes.neurons import NeuronSet
from probes.tap import HeadTap
from tests.reference.official_cett import official_cett
from tests.reference.slow_blocks import block_inputs, slow_layer_cett
from tests.reference.tiny_models import ARCHITECTURES, MIXTURES, build_tiny, shared_tiny
from tests.unit.probes.taps import IDS, every, pick, plain, run


def zero_columns(model, neurons):
    """Set the named columns of W_down to zero, in place."""
    for part in feed_forwards(model):
        for j in neurons.index[neurons.of_layer(part.layer)]:
            block = next(block for block in part.blocks if block.offset <= j < block.offset + block.width)
            if block.is_routed:
                width = block.module.down_proj.shape[2]
                block.module.down_proj[(j - block.offset) // width, :, (j - block.offset) % width] = 0
            else:
                block.module.weight[:, j - block.offset] = 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_cett_of_every_layer_equals_a_recomputation_by_hand(name):
    model = shared_tiny(name, torch.float64)
    tolerance = 1e-6 if name == "DeepseekV3" else 1e-9  # its router computes in float32 whatever the model's dtype
    neurons = pick(model, 60)
    assert {int(layer) for layer in neurons.layer} == {0, 1, 2}
    _, cett = run(model, HeadTap(model, neurons))
    given = block_inputs(model, input_ids=IDS)
    for row in range(IDS.shape[0]):
        for column in range(IDS.shape[1]):
            by_layer = [slow_layer_cett(model.model.layers[layer].mlp, given[layer][row, column]) for layer in range(3)]
            expected = torch.cat(by_layer)[torch.from_numpy(neurons.flat)]
            assert (cett[row, column] - expected).abs().max() < tolerance


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in MIXTURES])
def test_cett_of_every_dense_layer_equals_the_official_definition(name):
    model = shared_tiny(name, torch.float64)
    _, cett = run(model, HeadTap(model, every(model)), ids=IDS[:1])
    expected = official_cett(model, IDS[0].tolist())
    assert (cett[0] - expected.transpose(0, 1).flatten(1)).abs().max() < 1e-9


@pytest.mark.parametrize("name", ["Llama", "Phi3"])
def test_a_subset_equals_the_columns_of_the_dense_reading_bit_for_bit(name):
    model = shared_tiny(name)
    neurons = pick(model, 17)
    _, dense = run(model, HeadTap(model, every(model)))
    _, some = run(model, HeadTap(model, neurons))
    assert torch.equal(some, dense[..., torch.from_numpy(neurons.flat)])


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reading_and_alpha_one_leave_logits_bit_identical(name, dtype):
    model = shared_tiny(name, dtype)
    neurons = pick(model)
    tap = HeadTap(model, neurons, range(len(neurons)))
    expected = plain(model)
    assert torch.equal(run(model, tap)[0], expected)
    assert torch.equal(run(model, tap, alphas=[1.0, 1.0])[0], expected)
    assert torch.equal(run(model, tap, alphas=[1.0, 0.0])[0][0], expected[0])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_alpha_zero_equals_zeroed_columns_row_by_row(name):
    model, cut = shared_tiny(name), build_tiny(name)
    neurons = pick(model, 60)
    h_neurons = np.arange(0, 60, 2)
    zero_columns(cut, NeuronSet(neurons.widths, neurons.layer[h_neurons], neurons.index[h_neurons]))
    logits, _ = run(model, HeadTap(model, neurons, h_neurons), alphas=[1.0, 0.0])
    assert (logits[1] - plain(cut)[1]).abs().max() < 1e-4
    assert (plain(cut)[1] - plain(model)[1]).abs().max() > 0.05
    assert torch.equal(logits[0], plain(model)[0])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_alpha_scales_linearly_what_the_h_neurons_write(name):
    """W_down columns times alpha is the same model as z times alpha."""
    model, scaled = shared_tiny(name), build_tiny(name)
    neurons = pick(model, 30)
    for part in feed_forwards(scaled):
        for j in neurons.index[neurons.of_layer(part.layer)]:
            block = next(block for block in part.blocks if block.offset <= j < block.offset + block.width)
            if block.is_routed:
                width = block.module.down_proj.shape[2]
                block.module.down_proj[j // width, :, j % width] *= 2.5
            else:
                block.module.weight[:, j - block.offset] *= 2.5
    logits, _ = run(model, HeadTap(model, neurons, range(30)), alphas=[2.5, 2.5])
    assert (logits - plain(scaled)).abs().max() < 2e-4


@pytest.mark.parametrize("name", ["Llama", "Mixtral", "DeepseekV3"])
def test_a_suppressed_neuron_is_still_seen_and_h_is_the_output_as_used(name):
    model = shared_tiny(name, torch.float64)
    widths = layer_widths(model)
    # The last layer alone, so that its input stays the same: z is read raw, and only the norm that divides may differ.
    neurons = NeuronSet.from_flat(widths, np.arange(widths[2]) + sum(widths[:2]))
    tap = HeadTap(model, neurons, range(0, widths[2], 3))
    (before, h_before), (after, h_after) = (with_used_h(model, tap, alphas) for alphas in (None, [0.0, 0.0]))
    assert (h_before - h_after).abs().max() > 0.1
    assert torch.allclose(after, before * (h_before.norm(dim=-1) / h_after.norm(dim=-1))[..., None], rtol=1e-7)
    assert (after[before > 0] > 0).all()


def with_used_h(model, tap, alphas):
    """CETT, and the last layer's h as what the decoder layer adds to the residual stream."""
    seen = {}
    layer = model.model.layers[2]
    handles = [
        layer.post_attention_layernorm.register_forward_pre_hook(
            lambda _m, args: seen.update(residual=args[0].clone())
        ),
        layer.register_forward_hook(lambda _m, _a, output: seen.update(out=output)),
    ]
    _, cett = run(model, tap, alphas=alphas)
    for handle in handles:
        handle.remove()
    return cett, seen["out"] - seen["residual"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_last_columns_are_the_same_as_all_columns(name):
    model = shared_tiny(name)
    tap = HeadTap(model, pick(model))
    _, full = run(model, tap)
    for last in (1, 3):
        assert torch.allclose(run(model, tap, last=last)[1], full[:, -last:], atol=1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("alphas", [None, [0.5, 1.0]])
def test_a_step_of_one_column_reads_what_a_longer_pass_reads_there(name, alphas):
    """The first column sees nothing of the others."""
    model = shared_tiny(name)
    neurons = pick(model)
    tap = HeadTap(model, neurons, range(0, 40, 2))
    logits, cett = run(model, tap, alphas=alphas)
    for last in (1, None):
        step_logits, step_cett = run(model, tap, alphas=alphas, last=last, ids=IDS[:, :1])
        assert torch.allclose(step_cett, cett[:, :1], atol=1e-5)
        assert torch.allclose(step_logits, logits[:, :1], atol=1e-4)


def test_scores_are_weighted_sums():
    model = shared_tiny("Llama")
    tap = HeadTap(model, pick(model))
    with tap.attached(), torch.inference_mode():
        tap.begin(2)
        model(IDS)
    reading = tap.read()
    weights = torch.randn(2, 40)
    expected = [[[float((w * row).sum()) for w in weights] for row in rows] for rows in reading.cett]
    assert torch.allclose(reading.scores(weights), torch.tensor(expected), atol=1e-5)
