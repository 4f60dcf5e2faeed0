"""What the report shows of each evaluated split, and of the neurons: numbers and pictures, no words around them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline.evaluation.evaluate import PROBE, SERVED
from offline.evaluation.scores import EvaluatedRows
from offline.fitting.budgets import exact_interval
from offline.metrics import Interval, auroc, bootstrap_difference
from offline.report_parts import curves, plots
from offline.report_parts.plots import Picture
from offline.report_parts.slices import LEAST, Slice, by_length, by_source, correlate_length
from offline.report_parts.words import name_split
from probes.artifact import ProbeArtifact

LINES = 5
"""Baselines in one figure, beside the risk and the probe."""


@dataclass(frozen=True)
class MethodRow:
    """One score of the table."""

    name: str
    metrics: Mapping[str, Interval]
    lead: Interval | None
    """AUROC of the served risk minus this one's; None for the risk itself."""


@dataclass(frozen=True)
class Section:
    """One evaluated split."""

    split: str
    title: str
    faithful: int
    hallucinated: int
    methods: Sequence[MethodRow]
    evidence: Mapping[str, Any]
    """Of the card."""
    rocs: Sequence[Picture]
    coverages: Sequence[Picture]
    reliability: Picture
    flagged: Interval
    """Share of answers at or above the threshold."""
    outside: Interval
    """Share of answers out of domain."""
    sources: Sequence[Slice]
    sources_picture: Picture | None
    lengths: Mapping[str, Sequence[Slice]]
    """Which tokens -> slices."""
    lengths_pictures: Sequence[Picture]
    correlations: Mapping[str, Mapping[str, Interval]]
    """Score -> class -> rank correlation with the response's length."""


def make_sections(folder: Path, artifact: ProbeArtifact, rows: EvaluatedRows) -> list[Section]:
    """A section for each split of the card that has enough rows of both classes.

    Args:
        folder: Where the PNG files go.
        artifact: With its card.
        rows: All evaluated rows.
    """
    sections = []
    for split, evidence in artifact.card["evidence"].items():
        here = rows.take(rows.splits == split)
        hallucinated = int(here.labels.sum())
        if min(hallucinated, len(here.labels) - hallucinated) >= LEAST:
            sections.append(_make_section(folder, split, evidence, here))
    return sections


def draw_layers(folder: Path, artifact: ProbeArtifact) -> Picture:
    """Selected neurons by layer."""
    probe, layers = artifact.probe, len(artifact.model.widths)
    raising, lowering = (probe.neurons.layer[mask] for mask in (probe.weights > 0, probe.weights < 0))
    counts = ", ".join(f"layer {layer}: {(raising == layer).sum()}" for layer in sorted(set(raising.tolist())))
    alt = f"{len(raising)} H-neurons and {len(lowering)} other selected neurons by layer. H-neurons, {counts}."
    return plots.draw(folder, "layers", "Selected neurons by layer", alt, plots.layers(layers, raising, lowering))


def _make_section(folder: Path, split: str, evidence: Mapping[str, Any], rows: EvaluatedRows) -> Section:
    hallucinated = int(rows.labels.sum())
    sources = by_source(rows)
    lengths = {"answer": by_length(rows, rows.answer_tokens), "response": by_length(rows, rows.response_tokens)}
    return Section(
        split=split,
        title=name_split(split),
        faithful=len(rows.labels) - hallucinated,
        hallucinated=hallucinated,
        methods=[_method(name, triples, rows) for name, triples in evidence["methods"].items()],
        evidence=evidence,
        rocs=_draw_curves(folder, split, rows, is_roc=True),
        coverages=_draw_curves(folder, split, rows, is_roc=False),
        flagged=_share(evidence["risk"]["flagged"], len(rows.labels)),
        outside=_share(evidence["out_of_domain"], len(rows.labels)),
        reliability=_draw_reliability(folder, split, evidence, rows),
        sources=sources,
        sources_picture=draw_slices(folder, f"sources-{split}", f"AUROC by source, {name_split(split)}", sources),
        lengths=lengths,
        lengths_pictures=[
            picture
            for tokens, found in lengths.items()
            if (
                picture := draw_slices(
                    folder, f"{tokens}-length-{split}", f"AUROC by {tokens} tokens, {name_split(split)}", found
                )
            )
        ],
        correlations={method: correlate_length(rows, method) for method in (SERVED, PROBE)},
    )


def _share(share: float, n: int) -> Interval:
    return Interval(share, *exact_interval(round(share * n), n))


def _method(name: str, triples: Mapping[str, Sequence[float]], rows: EvaluatedRows) -> MethodRow:
    lead = None if name == SERVED else bootstrap_difference(auroc, rows.of(SERVED), rows.of(name), rows.labels)
    return MethodRow(name, {metric: Interval(*triple) for metric, triple in triples.items()}, lead)


def _draw_curves(folder: Path, split: str, rows: EvaluatedRows, *, is_roc: bool) -> list[Picture]:
    """The risk and the probe with a handful of baselines at a time, so that every figure can be read."""
    curve, kind = (curves.roc, "ROC") if is_roc else (curves.coverage, "Risk-coverage")
    x, y = ("false positive rate", "recall") if is_roc else ("share of answers kept", "share of hallucinations in them")
    risk = curves.band(curve, rows.of(SERVED), rows.labels)
    random = curves.spread([curve(values, rows.labels) for values in rows.random])
    pictures = []
    baselines = [method for method in rows.methods if method not in (SERVED, PROBE)]
    for number, start in enumerate(range(0, len(baselines), LINES), start=1):
        names = (SERVED, PROBE, *baselines[start : start + LINES])
        alt = (
            f"{kind} curves on {name_split(split)}: {', '.join(names)}; the range of {len(rows.random)} sets of random "
            f"neurons is shaded. AUROC: " + ", ".join(f"{m} {auroc(rows.of(m), rows.labels):.3f}" for m in names) + "."
        )
        on = plots.curves(
            {name: curve(rows.of(name), rows.labels) for name in names},
            risk,
            x=x,
            y=y,
            has_diagonal=is_roc,
            shaded={"random neurons, range": random},
        )
        name = f"{'roc' if is_roc else 'risk-coverage'}-{split}-{number}"
        pictures.append(plots.draw(folder, name, f"{kind} curves, {number}", alt, on, height=5.2))
    return pictures


def _draw_reliability(folder: Path, split: str, evidence: Mapping[str, Any], rows: EvaluatedRows) -> Picture:
    bins = curves.reliability(rows.risks, rows.labels)
    points = "; ".join(f"risk {b.risk:.2f}: {b.share:.2f} [{b.low:.2f}, {b.high:.2f}]" for b in bins)
    alt = f"Share of hallucinations in {len(bins)} bins of the risk on {name_split(split)}. {points}."
    title = f"{name_split(split).capitalize()}: ECE {Interval(*evidence['risk']['ece'])}"
    return plots.draw(folder, f"reliability-{split}", title, alt, plots.reliability(bins))


def draw_slices(folder: Path, name: str, title: str, slices: Sequence[Slice]) -> Picture | None:
    """AUROC by slice; None where none has enough rows."""
    judged = [s for s in slices if s.auroc]
    if not judged:
        return None
    points = "; ".join(f"{s.name}: " + ", ".join(f"{m} {v}" for m, v in s.auroc.items()) for s in judged)
    height = 1.5 + 0.55 * len(judged)
    return plots.draw(folder, name, title, f"{title}. {points}.", plots.intervals(judged), height=height)
