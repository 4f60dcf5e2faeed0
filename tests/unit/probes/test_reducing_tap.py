"""The tap that reduces inside the hook must give the mean of what the per-token tap reads, on every architecture."""

import numpy as np
import pytest
import torch

from probes.neurons import NeuronSet
from probes.reducing_tap import ReducingTap
from probes.tap import HeadTap
from tests.reference.official_cett import official_cett, official_region
from tests.reference.tiny_models import ARCHITECTURES, MIXTURES, VOCABULARY, build_tiny, shared_tiny

torch.set_num_threads(1)

LENGTHS = (9, 5, 12)
COLUMNS = max(LENGTHS)


def make_ids(lengths=LENGTHS, columns=COLUMNS):
    """Right-padded rows."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.zeros(len(lengths), columns, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(3, VOCABULARY, (length,), generator=draw)
    return ids


def make_weights(lengths=LENGTHS, columns=COLUMNS):
    """Three groups a row: the last two tokens, the rest, and the first alone; 0 on the padding."""
    weights = torch.zeros(len(lengths), 3, columns)
    for row, length in enumerate(lengths):
        weights[row, 0, length - 2 : length] = 1 / 2
        weights[row, 1, : length - 2] = 1 / (length - 2)
        weights[row, 2, 0] = 1
    return weights


@torch.inference_mode()
def reduce(model, ids, weights):
    tap = ReducingTap(model)
    with tap.attached():
        return tap.run(weights, input_ids=ids, use_cache=False)


@torch.inference_mode()
def every_token(model, ids):
    """CETT [T, neurons] of one unpadded row, by the tap that the service uses."""
    widths = ReducingTap(model).widths
    tap = HeadTap(model, NeuronSet.from_flat(widths, np.arange(sum(widths))))
    with tap.attached():
        tap.begin(1, last=None)
        model(input_ids=ids[None], use_cache=False)
        return tap.read().cett[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_mean_is_that_of_every_token_row_by_row_without_padding(name):
    model, ids, weights = shared_tiny(name), make_ids(), make_weights()
    features, _ = reduce(model, ids, weights)
    assert features.shape == (3, 3, sum(ReducingTap(model).widths))
    for row, length in enumerate(LENGTHS):
        expected = weights[row, :, :length] @ every_token(model, ids[row, :length])
        torch.testing.assert_close(features[row], expected, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in MIXTURES])
def test_the_mean_is_the_official_feature(name):
    model, ids, weights = shared_tiny(name), make_ids(), make_weights()
    features, _ = reduce(model, ids, weights)
    for row, length in enumerate(LENGTHS):
        cett = official_cett(model, ids[row, :length].tolist())
        torch.testing.assert_close(
            features[row, 0], official_region(cett, length - 2, length).flatten(), rtol=2e-4, atol=2e-6
        )


@pytest.mark.parametrize("name", ["Llama", "DeepseekV3"])
def test_the_models_output_is_not_touched(name):
    model, ids = shared_tiny(name), make_ids()
    _, output = reduce(model, ids, make_weights())
    with torch.inference_mode():
        assert torch.equal(output.logits, model(input_ids=ids, use_cache=False).logits)


def test_logits_can_be_had_for_some_columns_only():
    model, ids = shared_tiny("Llama"), make_ids()
    tap = ReducingTap(model)
    with torch.inference_mode(), tap.attached():
        _, some = tap.run(make_weights(), input_ids=ids, use_cache=False, logits_to_keep=torch.arange(3, 7))
        _, every = tap.run(make_weights(), input_ids=ids, use_cache=False)
    torch.testing.assert_close(some.logits, every.logits[:, 3:7])


def test_a_tap_that_is_not_attached_is_an_error_and_not_old_numbers():
    model, ids = shared_tiny("Llama"), make_ids()
    tap = ReducingTap(model)
    with torch.inference_mode():
        with tap.attached():
            tap.run(make_weights(), input_ids=ids)
        with pytest.raises(RuntimeError, match=r"taps of layers \[0, 1, 2\] did not run"):
            tap.run(make_weights(), input_ids=ids)


def test_hooks_are_gone_after_an_error():
    model = build_tiny("Llama")
    tap = ReducingTap(model)
    with pytest.raises(ZeroDivisionError), tap.attached():
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", MIXTURES)
def test_a_pass_that_failed_inside_a_block_leaves_nothing_for_the_next_one(name):
    model, ids, weights = build_tiny(name), make_ids(), make_weights()
    tap = ReducingTap(model)

    def fail(*_):
        raise ZeroDivisionError

    with torch.inference_mode(), tap.attached():
        expected, _ = tap.run(weights, input_ids=ids, use_cache=False)
        handle = tap._parts[-1].blocks[-1].module.register_forward_hook(fail)
        with pytest.raises(ZeroDivisionError):
            tap.run(weights[:2], input_ids=ids[:2], use_cache=False)
        handle.remove()
        again, _ = tap.run(weights, input_ids=ids, use_cache=False)
    assert torch.equal(again, expected)


def test_more_padding_changes_nothing():
    model = shared_tiny("Llama")
    narrow, _ = reduce(model, make_ids((5,), 5), make_weights((5,), 5))
    wide, _ = reduce(model, make_ids((5,), 40), make_weights((5,), 40))
    torch.testing.assert_close(wide, narrow, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_give_the_same_features_within_their_rounding(dtype):
    ids, weights = make_ids(), make_weights()
    expected, _ = reduce(shared_tiny("Llama"), ids, weights)
    features, _ = reduce(build_tiny("Llama", dtype=dtype), ids, weights)
    assert features.dtype == torch.float32
    assert (features - expected).abs().mean() / expected.abs().mean() < 0.05
