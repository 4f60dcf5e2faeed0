"""Judge a probe domain by domain: on question sets of `--domains`, and on the unfiltered test rows of each own source.

Every row is a greedy answer at its natural rate. Accuracy stands beside the paper's, which is measured on balanced
classes: it is the mean of the two classes' accuracies. The served risk is cut at its shipped threshold; the probe and
each set of random neurons where the same rule (`offline.fitting.calibrate.choose_threshold`) puts theirs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from offline import metrics
from offline.evaluation.evaluate import FREE, PROBE, QUESTION, RANDOM, SERVED, Contest
from offline.features.table import Floats, Ints, Mask, Table
from offline.fitting.budgets import exact_interval
from offline.fitting.calibrate import choose_threshold
from offline.metrics import LEVEL, Interval, Metric, auroc, bootstrap, bootstrap_difference, ece
from offline.records import DOMAIN

LEAST = 10
"""Rows of each class that an AUROC needs."""
METHODS = (SERVED, PROBE, FREE, QUESTION, "response length")


def evaluate_domains(table: Table, contest: Contest, left_out: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """One JSON-ready entry a domain.

    Args:
        table: All rows.
        contest: What to judge.
        left_out: Domain -> reason -> questions that gave no row.

    Returns:
        First the sources that the probe was trained on (`is_trained`), then the other domains, each by name. `auroc`,
        `gain` and `balanced_accuracy` are None where `reason` says why; so is the share flagged of a class without
        rows. Every triple is [value, low, high].
    """
    sources = np.array([row.source for row in table.rows])
    cuts = _Cuts(table, contest)
    found = []
    for split, is_trained in (("unfiltered-test", True), (DOMAIN, False)):
        here = table.in_split(split)
        reasons = {} if is_trained else left_out
        for name in sorted({*sources[here].tolist(), *reasons}):
            entry = {"domain": name, "is_trained": is_trained, "left_out": dict(reasons.get(name, {}))}
            found.append(entry | _judge(here & (sources == name), table, contest, cuts))
    return found


class _Cuts:
    """Threshold of each score, in its own units."""

    def __init__(self, table: Table, contest: Contest) -> None:
        rows = table.in_split("unfiltered-calibration")
        labels = table.labels[rows]

        def cut(scores: Floats) -> float:
            if not np.ptp(scores[rows]):  # random neurons may all be silent
                return 0.0
            chosen = choose_threshold(expit(scores[rows]), labels)
            return float(np.log(chosen / (1 - chosen)))

        self.probe = cut(contest.scores[PROBE])
        self.random = [cut(scores) for scores in contest.random]


def _judge(rows: Mask, table: Table, contest: Contest, cuts: _Cuts) -> dict[str, Any]:
    labels = table.labels[rows]
    faithful, hallucinated = int((labels == 0).sum()), int((labels == 1).sum())
    scores = {name: contest.scores[name][rows] for name in METHODS}
    risks = contest.risk.model.calibration.risks(scores[SERVED])
    threshold = contest.risk.threshold
    entry: dict[str, Any] = {
        "rows": {"faithful": faithful, "hallucinated": hallucinated},
        "flagged": {
            "faithful": _share(risks[labels == 0] >= threshold),
            "hallucinated": _share(risks[labels == 1] >= threshold),
        },
        "ece": _bootstrap_rows(ece, risks, labels).as_list() if len(labels) else None,
        "out_of_domain": round(float(contest.risk.outside[rows].mean()), 4) if len(labels) else None,
        "reason": None,
        "auroc": None,
        "gain": None,
        "balanced_accuracy": None,
    }
    if min(faithful, hallucinated) < LEAST:
        return entry | {"reason": f"{faithful} faithful and {hallucinated} hallucinated: AUROC needs {LEAST} of each"}
    random = [
        _balanced_accuracy(cut)(drawn[rows], labels) for cut, drawn in zip(cuts.random, contest.random, strict=True)
    ]
    return entry | {
        "auroc": {name: bootstrap(auroc, values, labels).as_list() for name, values in scores.items()},
        "gain": bootstrap_difference(auroc, scores[SERVED], scores[FREE], labels).as_list(),
        "balanced_accuracy": {
            SERVED: bootstrap(_balanced_accuracy(threshold), risks, labels).as_list(),
            PROBE: bootstrap(_balanced_accuracy(cuts.probe), scores[PROBE], labels).as_list(),
            RANDOM: [round(float(value), 4) for value in (np.mean(random), min(random), max(random))],
        },
    }


def _balanced_accuracy(threshold: float) -> Metric:
    """Mean of the two classes' accuracies of flagging from this score on."""
    return lambda scores, labels: float(
        ((scores[labels == 1] >= threshold).mean() + (scores[labels == 0] < threshold).mean()) / 2
    )


def _share(flags: Mask) -> list[float] | None:
    """A share with its exact interval; None of no rows."""
    if not len(flags):
        return None
    return [round(x, 4) for x in (float(flags.mean()), *exact_interval(int(flags.sum()), len(flags)))]


def _bootstrap_rows(metric: Metric, scores: Floats, labels: Ints) -> Interval:
    """A metric that needs no second class, with its interval; resamples rows whatever their class."""
    random = np.random.default_rng(0)
    draws = []
    for _ in range(metrics.RESAMPLES):
        rows = random.choice(len(labels), len(labels))
        draws.append(metric(scores[rows], labels[rows]))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(metric(scores, labels), float(low), float(high))
