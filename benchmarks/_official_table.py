"""The comparison with the official scripts as numbers with intervals, and as tables. Runs nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offline.metrics import auroc, bootstrap, bootstrap_difference

Triple = Sequence[float]


@dataclass(frozen=True)
class Judged:
    """One score on the test rows; each mapping is by split."""

    name: str
    scores: Mapping[str, np.ndarray]
    """Higher means hallucinated [n]."""
    flags: Mapping[str, np.ndarray]
    """Flagged at its own threshold [n]."""
    labels: Mapping[str, np.ndarray]
    """1 = hallucinated [n]."""
    n_selected: int
    """Neurons whose weight is not 0."""
    n_h_neurons: int
    """Neurons whose weight is positive."""
    n_neurons: int
    """All of the model."""
    settings: Any = None
    """The official classifier's; ours has none."""
    held_out: float | None = None
    """The official choice of C rests on it."""
    printed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What the official script itself printed."""


def to_json(judged: Sequence[Judged], names: Sequence[str], rows: Iterable[Any]) -> dict[str, Any]:
    """All numbers.

    Args:
        judged: Ours first, then the official fits at every C.
        names: Which of them the side-by-side table shows.
        rows: The splits, for their counts.
    """
    ours = [each for each in judged if each.settings is None]
    splits = list(judged[0].scores)
    return {
        "rows": {each.split: dict(each.counts) for each in rows},
        "methods": {each.name: _describe(each) for each in judged},
        "side_by_side": list(names),
        "differences": {
            f"{a.name} - {b.name}": {
                split: bootstrap_difference(auroc, a.scores[split], b.scores[split], a.labels[split]).as_list()
                for split in splits
            }
            for b in judged
            if b.settings is not None
            for a in ours
        },
    }


def _describe(judged: Judged) -> dict[str, Any]:
    found: dict[str, Any] = {
        "selected": judged.n_selected,
        "h_neurons": judged.n_h_neurons,
        "per_mille": round(1000 * judged.n_h_neurons / judged.n_neurons, 3),
        "held_out_accuracy": judged.held_out,
        "printed_by_the_script": judged.printed,
    }
    for split, scores in judged.scores.items():
        labels, flags = judged.labels[split], judged.flags[split]
        found[split] = {
            "auroc": bootstrap(auroc, scores, labels).as_list(),
            "accuracy": bootstrap(_accuracy, flags, labels).as_list(),
        }
    return found


def _accuracy(flags: np.ndarray, labels: np.ndarray) -> float:
    return float((flags == (labels == 1)).mean())


def print_tables(report: Mapping[str, Any]) -> None:
    """Three Markdown tables: side by side, the official grid, the rows."""
    methods, shown = report["methods"], report["side_by_side"]
    splits = [split for split in report["rows"] if split != "train"]
    ours = [name for name in shown if name.startswith("ours")]
    print("\n## Side by side\n")
    _print(
        [
            "score",
            *(f"{name}, {split}" for name in ("AUROC", "accuracy") for split in splits),
            "H-neurons (of selected)",
            "per mille",
        ],
        (
            [
                name,
                *(_text(methods[name][split][metric]) for metric in ("auroc", "accuracy") for split in splits),
                f"{methods[name]['h_neurons']} ({methods[name]['selected']})",
                str(methods[name]["per_mille"]),
            ]
            for name in shown
        ),
    )
    print("\nAUROC gained by ours, paired\n")
    _print(
        ["over", *(f"{name.removeprefix('ours: ')}, {split}" for name in ours for split in splits)],
        (
            [
                name,
                *(_text(report["differences"][f"{our} - {name}"][split], "+") for our in ours for split in splits),
            ]
            for name in shown
            if name not in ours
        ),
    )
    print("\n## Every official fit\n")
    _print(
        ["fit", "held-out accuracy", *(f"AUROC, {split}" for split in splits), "H-neurons", "per mille"],
        (
            [
                name + (" *" if name in shown else ""),
                "" if found["held_out_accuracy"] is None else f"{found['held_out_accuracy']:.3f}",
                *(_text(found[split]["auroc"]) for split in splits),
                str(found["h_neurons"]),
                str(found["per_mille"]),
            ]
            for name, found in methods.items()
            if name not in ours
        ),
    )
    print("\n## Rows\n")
    counts = report["rows"]
    header = list(next(iter(counts.values())))
    _print(
        ["split", *(name.replace("_", " ") for name in header)],
        ([split, *(str(found[name]) for name in header)] for split, found in counts.items()),
    )


def _text(triple: Triple, sign: str = "") -> str:
    value, low, high = (f"{number:{sign}.3f}" for number in triple)
    return f"{value} [{low}, {high}]"


def _print(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for cells in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(cells) + " |")
