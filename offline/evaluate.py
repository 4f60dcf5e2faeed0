"""Judge a probe as science.md asks: against every baseline, on filtered and unfiltered rows it was not trained on."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline import metrics
from offline.metrics import auroc, bootstrap, bootstrap_difference
from offline.table import Table
from probes.calibration import Calibration

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PROBE = "H-neuron probe"
FREE = "free signals together"
BOTH = "probe and free signals"
QUESTION = "question only"
RANDOM = "random neurons"


def evaluate(
    table: Table,
    split: str,
    scores: Mapping[str, Floats],
    random: list[Floats],
    calibration: Calibration,
    threshold: float,
) -> dict[str, Any]:
    """Everything about one evaluation set.

    Args:
        table: All rows, R.
        split: Which of them to judge.
        scores: Method -> scores [R], `PROBE` (its logits) among them.
        random: Scores [R] of each set of random neurons.
        calibration: The probe's.
        threshold: The shipped risk threshold.

    Returns:
        A JSON-ready dictionary; every triple is [value, low, high] of a 95% bootstrap interval.
    """
    rows = table.in_split(split)
    labels = table.labels[rows]
    here = {name: values[rows] for name, values in scores.items()}
    risks = calibration.risks(here[PROBE])
    drawn = [auroc(values[rows], labels) for values in random]
    return {
        "rows": {"faithful": int((labels == 0).sum()), "hallucinated": int((labels == 1).sum())},
        "methods": {name: metrics.summarise(values, labels) for name, values in here.items()},
        RANDOM: {"mean": round(float(np.mean(drawn)), 4), "low": round(min(drawn), 4), "high": round(max(drawn), 4)},
        "differences": {
            f"{PROBE} over {FREE}": _gain(here[PROBE], here[FREE], labels),
            f"{BOTH} over {FREE}": _gain(here[BOTH], here[FREE], labels),
            f"{PROBE} over {QUESTION}": _gain(here[PROBE], here[QUESTION], labels),
            f"{PROBE} over mean {RANDOM}": _gain_over_random(here[PROBE], [values[rows] for values in random], labels),
        },
        "risk": {
            "accuracy_at_threshold": bootstrap(metrics.accuracy_at(threshold), risks, labels).as_list(),
            "ece": bootstrap(metrics.ece, risks, labels).as_list(),
            "brier": bootstrap(metrics.brier, risks, labels).as_list(),
            "flagged": round(float((risks >= threshold).mean()), 4),
        },
        "auroc_by_source": _by_source(table, rows, here[PROBE], labels),
        "length_correlation": metrics.length_correlation(here[PROBE], table.signals["response_n_tokens"][rows], labels),
    }


def answer_overlap(table: Table, first: str, second: str) -> int:
    """How many answer strings stand in both splits; 0 by construction, and checked all the same."""
    keys = {split: {row.answers_key for row in table.rows if row.split == split} for split in (first, second)}
    return len(keys[first] & keys[second])


def _gain(a: Floats, b: Floats, labels: Ints) -> list[float]:
    return bootstrap_difference(auroc, a, b, labels).as_list()


def _gain_over_random(probe: Floats, random: list[Floats], labels: Ints) -> list[float]:
    """AUROC of the probe minus the mean AUROC of the random sets, on the same resamples."""
    stacked = np.stack([probe, *random], axis=1)

    def gain(values: Floats, y: Ints) -> float:
        return auroc(values[:, 0], y) - float(np.mean([auroc(column, y) for column in values[:, 1:].T]))

    return bootstrap(gain, stacked, labels, resamples=200).as_list()


def _by_source(table: Table, rows: NDArray[np.bool_], scores: Floats, labels: Ints) -> dict[str, Any]:
    sources = np.array([row.source for row in table.rows])[rows]
    found = {}
    for source in sorted(set(sources)):
        here = sources == source
        counts = Counter(labels[here].tolist())
        if min(counts[0], counts[1]) >= 10:
            value = bootstrap(auroc, scores[here], labels[here]).as_list()
            found[source] = {"auroc": value, "faithful": counts[0], "hallucinated": counts[1]}
    return found
