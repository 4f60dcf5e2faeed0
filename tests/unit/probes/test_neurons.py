import numpy as np
import pytest

from probes.neurons import NeuronSet

WIDTHS = (4, 6, 3)


def test_flat_order_counts_layer_by_layer():
    every = NeuronSet.from_flat(WIDTHS, np.arange(13))
    assert every.flat.tolist() == list(range(13))
    assert every.layer.tolist() == [0] * 4 + [1] * 6 + [2] * 3
    assert every.index.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert every.total == 13


@pytest.mark.parametrize("seed", range(10))
def test_flat_and_pairs_are_the_same_set(seed):
    random = np.random.default_rng(seed)
    flat = random.choice(13, size=random.integers(0, 14), replace=False)
    neurons = NeuronSet.from_flat(WIDTHS, flat)
    assert len(neurons) == len(flat)
    assert neurons.flat.tolist() == sorted(flat.tolist())
    assert NeuronSet(WIDTHS, neurons.layer, neurons.index).flat.tolist() == neurons.flat.tolist()


def test_a_layer_knows_its_place_also_when_it_is_empty():
    neurons = NeuronSet.from_flat(WIDTHS, np.asarray([1, 3, 12]))
    assert [neurons.of_layer(layer) for layer in range(3)] == [slice(0, 2), slice(2, 2), slice(2, 3)]


@pytest.mark.parametrize(
    ("layer", "index", "message"),
    [
        ([0], [4], "layer 0 does not exist: that layer has 4"),
        ([3], [0], "names layer 3; the model has 3"),
        ([0], [-1], "neuron -1 of layer 0"),
        ([0, 1], [0, -2], "neuron -2 of layer 1"),
        ([-1], [0], "names layer -1"),
        ([1, 0], [0, 0], "flat order"),
        ([0, 0], [1, 1], "flat order"),
        ([0, 0], [1], "of one length"),
    ],
)
def test_a_neuron_that_does_not_exist_or_is_out_of_order_is_refused(layer, index, message):
    with pytest.raises(ValueError, match=message):
        NeuronSet(WIDTHS, np.asarray(layer), np.asarray(index))


@pytest.mark.parametrize("flat", [[13], [-1], [2, 2], [5, -3]])
def test_flat_index_outside_the_model_or_twice_is_refused(flat):
    with pytest.raises(ValueError, match=r"flat"):
        NeuronSet.from_flat(WIDTHS, np.asarray(flat))
