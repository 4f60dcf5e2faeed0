"""Baselines must be fitted on training rows only and turned the right way."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from offline.fitting.baselines import RANDOM_SEEDS, combine, free_scores, random_neuron_scores
from offline.metrics import auroc

N = 300


@pytest.fixture
def rows():
    draw = np.random.default_rng(0)
    labels = (draw.random(N) < 0.5).astype(np.int64)
    train = np.arange(N) < 200
    return draw, labels, train


def test_free_signals_are_turned_so_that_higher_means_hallucinated(rows):
    draw, labels, _ = rows
    doubt = labels + draw.normal(size=N) * 0.5
    signals = {
        "mean_logprob": -doubt,
        "min_logprob": -2 * doubt,
        "mean_entropy": doubt,
        "max_entropy": 3 * doubt,
        "response_n_tokens": doubt + 10,
        "n_tokens": np.ones(N),
    }
    found = free_scores(signals)
    assert len(found) == 5
    for scores in found.values():
        assert auroc(scores, labels) > 0.8


def test_the_combination_is_a_logistic_regression_of_standardised_columns(rows):
    draw, labels, train = rows
    columns = [labels + draw.normal(size=N), 1e4 * (draw.normal(size=N) - labels), draw.normal(size=N) * 1e-4]
    scores = combine(columns, labels, train)
    x = np.stack(columns, axis=1)
    x = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    plain = LogisticRegression(C=1.0, max_iter=1000).fit(x[train], labels[train])
    np.testing.assert_allclose(scores, plain.decision_function(x), atol=1e-6)


def test_a_combination_never_sees_the_labels_of_other_rows(rows):
    draw, labels, train = rows
    columns = [draw.normal(size=N) for _ in range(3)]
    scores = combine(columns, labels, train)
    np.testing.assert_array_equal(combine(columns, np.where(train, labels, 1 - labels), train), scores)


def test_random_neurons_are_as_many_as_selected_and_others_each_time(rows):
    draw, labels, train = rows
    features = draw.random((N, 50)).astype(np.float16)
    place = draw.permutation(N)
    seen = []

    class Spy:
        """A memory map that remembers which columns were read."""

        shape = features.shape

        def __getitem__(self, key):
            seen.append(key[1])
            return features[key]

    found = random_neuron_scores(Spy(), place, labels, train, 7, 0)
    assert len(found) == len(seen) == RANDOM_SEEDS == 10
    assert all(len(set(columns.tolist())) == 7 for columns in seen)
    assert len({tuple(columns) for columns in seen}) == 10
    expected = combine(features[place][:, seen[3]].astype(np.float64).T, labels, train)
    np.testing.assert_allclose(found[3], expected)


def test_random_neurons_are_repeatable(rows):
    draw, labels, train = rows
    features = draw.random((N, 50)).astype(np.float16)
    again = [random_neuron_scores(features, np.arange(N), labels, train, 5, seed)[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(again[0], again[1])
    assert not np.array_equal(again[0], again[2])
