"""The page: what was gathered, put into `page.html` and what it includes. Everything that is filled in is escaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from offline.cards.paper_table import COLUMNS, PAPER
from offline.evaluation.evaluate import SERVED
from offline.metrics import Interval
from offline.records import DOMAIN
from offline.report_parts import words
from offline.report_parts.contexts import NeuronContexts
from offline.report_parts.noise import VERDICTS, Agreement, Disagreement, NearMatches
from offline.report_parts.plots import Picture
from offline.report_parts.sections import Section
from offline.report_parts.slices import Accuracy, Slice
from probes.artifact import ProbeArtifact


@dataclass(frozen=True)
class Noise:
    """What is known of the labels' errors."""

    disagreements: Sequence[Disagreement]
    near: NearMatches | None
    """None where a second judge was asked, or no row is labelled hallucinated."""
    second: Agreement | None


@dataclass(frozen=True)
class Report:
    """Everything that the page shows."""

    artifact: ProbeArtifact
    sections: Sequence[Section]
    layers: Picture
    domains: Sequence[Slice]
    """Rows of other domains, by domain."""
    domains_picture: Picture | None
    table_one: Mapping[str, Accuracy | None]
    overall: Accuracy | None
    """Of Table 1's last row, over all consistent test rows."""
    noise: Noise
    contexts: Sequence[NeuronContexts] | None
    """None where the page is to hold no rows of data sets."""


def render(report: Report) -> str:
    """The whole page as HTML; it needs no other file and runs no script."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("offline.report_parts", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"interval": _interval, "percent": _percent}
    return environment.get_template("page.html").render(
        report=report,
        probe=report.artifact.probe,
        model=report.artifact.model,
        card=report.artifact.card,
        description=words.describe(report.artifact),
        reached={s.title: list(words.reached(s.evidence, report.artifact.probe.threshold)) for s in report.sections},
        missed={s.title: _missed(s) for s in report.sections}
        | {words.name_split(DOMAIN): list(words.missed_domains(report.domains))},
        left_out=words.left_out(report.artifact),
        paper=PAPER,
        columns=list(COLUMNS),
        verdicts=VERDICTS,
        metrics={"auroc": "AUROC", "recall_at_10_fpr": "recall at 10% false positives", "aurc": "AURC"},
    )


def _missed(section: Section) -> list[str]:
    leads = {row.name: row.lead for row in section.methods if row.lead is not None}
    return list(words.missed(section.evidence, leads, section.sources, section.correlations[SERVED]))


def _as_interval(value: Interval | Sequence[Any]) -> Interval:
    return value if isinstance(value, Interval) else Interval(*map(float, value))


def _interval(value: Interval | Sequence[Any]) -> str:
    return str(_as_interval(value))


def _percent(value: Interval | Sequence[Any], digits: int = 1) -> str:
    found = _as_interval(value)
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
