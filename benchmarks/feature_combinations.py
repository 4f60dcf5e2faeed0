"""Question: which scores add something beside the others, on rows that no fit of them saw?

    python benchmarks/feature_combinations.py <the options of the finished train_probe.py run>

Training rows only, as `feature_variants.py` has them. Each score is fitted without a fold and gives that fold's logits;
then every combination of them with the lowest log-probability is fitted and judged in the same way.
"""

import sys
from itertools import chain, combinations

import numpy as np
from feature_variants import interval, l1_out_of_fold, l2, out_of_fold_l2, read_training

from offline.fitting.choose import C_STANDARDISED, FOLDS
from offline.metrics import auroc

L1_C, L2_C = 0.04, 0.01
NEURON = ("mean", "max", "along h")


def main() -> None:
    found = read_training(sys.argv[1:])
    features, labels, folds = found.features, found.labels, found.folds
    at = C_STANDARDISED.index(L1_C)
    scores = {name: l1_out_of_fold(features[f"{name} own"], labels, folds)[0][at] for name in NEURON}
    streams = {
        name: out_of_fold_l2(values, labels, folds, L2_C)
        for name, values in features.items()
        if name.startswith("hidden") and name.endswith("own")
    }
    best = max(streams, key=lambda name: auroc(streams[name], labels))
    scores[best] = streams[best]
    for name, logits in {**scores, **streams}.items():
        print(f"{name}: {interval(logits, labels)}", flush=True)
    for names in chain.from_iterable(combinations(scores, size) for size in range(len(scores) + 1)):
        columns = np.stack([found.lowest, *(scores[name] for name in names)], axis=1)
        print(f"{' + '.join(['lowest log-probability', *names])}: {combined(columns, labels, folds)}", flush=True)


def combined(columns: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> str:
    """AUROC of a logistic regression on a few columns, out of fold."""
    logits = np.zeros(len(labels))
    for k in range(FOLDS):
        inside, outside = folds != k, folds == k
        logits[outside] = l2(1.0).fit(columns[inside], labels[inside]).decision_function(columns[outside])
    return interval(logits, labels)


if __name__ == "__main__":
    main()
