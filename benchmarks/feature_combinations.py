"""Question: which scores add something beside the others, on rows that no fit of them saw?

    python benchmarks/feature_combinations.py <the options of the finished train_probe.py run>

Training rows only, as `feature_variants.py` has them. Each score is fitted without a fold and gives that fold's logits;
then every combination of them with the lowest log-probability is fitted and judged in the same way.
"""

import sys
from itertools import chain, combinations

import numpy as np
from feature_variants import interval, l1_out_of_fold, l2, out_of_fold_l2, read_features

from offline.choose import C_STANDARDISED, FOLDS, fold_of
from offline.metrics import auroc
from offline.run import Run, RunConfig
from offline.table import extract_features
from offline.train_probe import ask_and_label, parse_arguments

L1_C, L2_C = 0.04, 0.01
NEURON = ("mean", "max", "along h")


def main() -> None:
    args = vars(parse_arguments(sys.argv[1:]))
    _ = args.pop("name"), args.pop("version")
    run = Run(RunConfig(**{**args, "questions": tuple(args["questions"]), "domains": ()}))
    table = extract_features(run, *ask_and_label(run))
    train = np.flatnonzero(table.in_split("train"))
    labels = table.labels[train]
    folds = np.array([fold_of(table.rows[row].answers_key) for row in train])
    features = read_features(run, table, train)
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
    lowest = table.signals["min_logprob"][train]
    for names in chain.from_iterable(combinations(scores, size) for size in range(len(scores) + 1)):
        columns = np.stack([lowest, *(scores[name] for name in names)], axis=1)
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
