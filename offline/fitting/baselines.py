"""What a probe has to beat: free signals, random neurons, dense L2, and the question alone.

Every baseline is fitted on the training rows and gives scores for all rows; higher means hallucinated.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from offline.features.stacked_rows import FeatureArray, StackedRows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RANDOM_SEEDS = 10


def free_scores(signals: dict[str, Floats]) -> dict[str, Floats]:
    """The free signals one by one, turned so that higher means hallucinated; nothing is fitted."""
    return {
        "mean log-probability": -signals["mean_logprob"],
        "minimum log-probability": -signals["min_logprob"],
        "mean entropy": signals["mean_entropy"],
        "maximum entropy": signals["max_entropy"],
        "response length": signals["response_n_tokens"],
    }


def combine(columns: Iterable[Floats], labels: Ints, train: NDArray[np.bool_]) -> Floats:
    """Logits [R] of a logistic regression on a few standardised columns [R] each, fitted on the training rows."""
    x = np.stack(list(columns), axis=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000)).fit(x[train], labels[train])
    return np.asarray(model.decision_function(x), dtype=np.float64)


def random_neuron_scores(
    features: FeatureArray | StackedRows, place: Ints, labels: Ints, train: NDArray[np.bool_], size: int, seed: int
) -> list[Floats]:
    """Scores of `size` random neurons, one array [R] a seed: L2 on their standardised CETT.

    Args:
        features: CETT [responses, neurons], a memory map.
        place: Row of `features` for each labelled row [R].
        labels: [R].
        train: Which rows are fitted on [R].
        size: Neurons in each set: as many as the probe selected.
        seed: Of the draw.
    """
    scores = []
    for draw in range(RANDOM_SEEDS):
        random = np.random.default_rng([seed, draw])
        columns = np.sort(random.choice(features.shape[1], size, replace=False))
        scores.append(combine(np.asarray(features[:, columns][place], dtype=np.float64).T, labels, train))
    return scores
