"""Judge a probe as science.md asks: against every baseline, on filtered and unfiltered rows it was not trained on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline import metrics
from offline.features.table import Table
from offline.fitting.budgets import exact_interval
from offline.fitting.risk import ServedRisk
from offline.metrics import auroc, bootstrap, bootstrap_difference
from probes.risk import Budget

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SERVED = "served risk"
PROBE = "H-neuron probe"
FREE = "free signals together"
HELD = "free signals together, signs held"
BOTH = "probe and free signals"
QUESTION = "question only"
RESIDUAL = "residual head"
RANDOM = "random neurons"


@dataclass(frozen=True)
class Contest:
    """All that is judged, a number for every labelled row [R]."""

    scores: Mapping[str, Floats]
    """Method -> scores, the names above among them."""
    random: Sequence[Floats]
    """Scores of each set of random neurons."""
    risk: ServedRisk


def evaluate(table: Table, split: str, contest: Contest) -> dict[str, Any]:
    """Everything about one evaluation set.

    Args:
        table: All rows, R.
        split: Which of them to judge.
        contest: What to judge.

    Returns:
        A JSON-ready dictionary; every triple is [value, low, high] of a 95% interval: bootstrap, or exact binomial for
        shares that a budget flags.
    """
    rows = table.in_split(split)
    labels = table.labels[rows]
    here = {name: values[rows] for name, values in contest.scores.items()}
    risk, random = contest.risk, [values[rows] for values in contest.random]
    risks = risk.model.calibration.risks(here[SERVED])
    drawn = [auroc(values, labels) for values in random]
    best = random[int(np.argmax(drawn))]
    pairs = [(SERVED, FREE), (SERVED, HELD), (SERVED, QUESTION), (SERVED, PROBE), (SERVED, RESIDUAL)]
    pairs += [(PROBE, FREE), (BOTH, FREE), (PROBE, QUESTION)]
    return {
        "rows": {"faithful": int((labels == 0).sum()), "hallucinated": int((labels == 1).sum())},
        "methods": {name: metrics.summarise(values, labels) for name, values in here.items()},
        RANDOM: {
            "mean": round(float(np.mean(drawn)), 4),
            "low": round(min(drawn), 4),
            "high": round(max(drawn), 4),
            "best": metrics.summarise(best, labels),
        },
        "differences": {
            **{f"{a} over {b}": _gain(here[a], here[b], labels) for a, b in pairs},
            f"{PROBE} over mean {RANDOM}": _gain_over_random(here[PROBE], random, labels),
            f"{PROBE} over best {RANDOM}": _gain(here[PROBE], best, labels),
        },
        "parts": _part_gains(risk, rows, labels),
        "risk": {
            "accuracy_at_threshold": bootstrap(metrics.accuracy_at(risk.threshold), risks, labels).as_list(),
            "ece": bootstrap(metrics.ece, risks, labels).as_list(),
            "brier": bootstrap(metrics.brier, risks, labels).as_list(),
            "flagged": round(float((risks >= risk.threshold).mean()), 4),
        },
        "budgets": [_spend(budget, risks, labels) for budget in risk.budgets],
        "out_of_domain": round(float(risk.outside[rows].mean()), 4),
        "auroc_by_source": _by_source(table, rows, here, labels),
        "length_correlation": {
            name: metrics.length_correlation(here[name], table.signals["response_n_tokens"][rows], labels)
            for name in (SERVED, PROBE)
        },
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


def _part_gains(risk: ServedRisk, rows: NDArray[np.bool_], labels: Ints) -> dict[str, Any]:
    """AUROC that each part adds to the others that are served; the weights are fitted again without or with it."""
    served = risk.logits[rows]
    gains: dict[str, Any] = {}
    for part, refit in risk.refits.items():
        pair = (served, refit[rows]) if part in risk.model.weights else (refit[rows], served)
        gains[part] = {"served": part in risk.model.weights, "gain": _gain(*pair, labels)}
    return gains


def _spend(budget: Budget, risks: Floats, labels: Ints) -> dict[str, Any]:
    """What a budget's threshold flags of each class."""
    spent: dict[str, Any] = {"fpr": budget.fpr, "threshold": budget.threshold}
    for name, label in (("faithful", 0), ("hallucinated", 1)):
        over = risks[labels == label] >= budget.threshold
        spent[name] = [round(x, 4) for x in (float(over.mean()), *exact_interval(int(over.sum()), len(over)))]
    return spent


def _by_source(table: Table, rows: NDArray[np.bool_], scores: Mapping[str, Floats], labels: Ints) -> dict[str, Any]:
    sources = np.array([row.source for row in table.rows])[rows]
    found = {}
    for source in sorted(set(sources)):
        here = sources == source
        counts = Counter(labels[here].tolist())
        if min(counts[0], counts[1]) >= 10:
            values = {name: bootstrap(auroc, scores[name][here], labels[here]).as_list() for name in (SERVED, PROBE)}
            found[source] = {"auroc": values, "faithful": counts[0], "hallucinated": counts[1]}
    return found
