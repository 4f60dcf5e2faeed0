"""The gate: whether a new probe beats the one that is served, on test rows of the new probe's run.

    better = AUROC gained > 0, the lower end of its paired 95% interval > -0.01, calibration error at most 0.01 worse

AUROC is taken on the consistency-filtered test rows and calibration error on the unfiltered ones, as on the card. Both
probes read the features that the run has kept: no model is loaded. An older probe may have been fitted on some of these
rows (where its run had another --seed); that speaks for it, never for the new one. A name's first probe has to beat the
free signals together, combined on the same training rows: the lower end of that interval is above 0.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline import metrics
from offline.evaluation.evaluate import FREE, SERVED
from offline.extraction.passage_reader import SIGNALS
from offline.extraction.passages import GROUPS
from offline.features.residuals import READ_GROUPS, Residuals
from offline.features.table import Floats, Table
from offline.fitting.combination import Combination, part_columns
from offline.metrics import auroc, bootstrap_difference
from offline.records import LabelledResponse
from offline.stages import StageMismatchError, fingerprint
from probes.artifact import ProbeArtifact
from probes.parts import Part
from probes.probe import Probe

AUROC_SLACK = 0.01
CALIBRATION_SLACK = 0.01
FILTERED, NATURAL = "test", "unfiltered-test"


class NoComparisonError(ValueError):
    """The run's rows do not tell which probe is better; says why and what to do."""


@dataclass(frozen=True)
class GateRows:
    """The test rows of a run, with the features that it has kept."""

    table: Table
    residuals: Residuals
    has_claims: bool
    """The rows' answer tokens are those that the lexical locator finds."""


@dataclass(frozen=True)
class Verdict:
    """Whether a probe may be published, and the numbers that decided it."""

    is_better: bool
    evidence: dict[str, Any]
    """For publish.json."""

    def __str__(self) -> str:
        """One line."""
        shown = ", ".join(f"{name} {value}" for name, value in self.evidence.items() if name != "rows")
        return f"{'better' if self.is_better else 'not better'}: {shown}"


def read_gate(out: Path) -> GateRows:
    """The test rows of a finished run.

    Args:
        out: The run's folder.

    Raises:
        StageMismatchError: Its rows and its features do not belong together.
        NoComparisonError: They are not there any more.
    """
    try:
        return _read_gate(out)
    except FileNotFoundError as error:
        raise NoComparisonError(f"{error.filename} is gone: run the command again with another --version") from error


def _read_gate(out: Path) -> GateRows:
    labels = [LabelledResponse(**row) for row in _read_rows(out / "labels.jsonl")]
    located = {row["question_id"] for row in _read_rows(out / "spans.jsonl")}
    keys = [key for key in dict.fromkeys(row.question_id for row in labels) if key in located]
    features = out / "features"
    if json.loads((features / "settings.json").read_text())["rows"] != fingerprint(tuple(keys)):
        raise StageMismatchError(f"{features} holds features of other rows than labels.jsonl: use another --out")
    at = {key: place for place, key in enumerate(keys)}
    rows = tuple(row for row in labels if row.question_id in at and row.split in (FILTERED, NATURAL))
    place = np.array([at[row.question_id] for row in rows], dtype=np.int64)
    names = tuple(prefix + name for prefix in ("", "response_") for name in SIGNALS)
    signals = np.load(features / "signals.npy", mmap_mode="r")[place]
    table = Table(
        rows,
        (),
        place,
        {name: np.load(features / f"{name}.npy", mmap_mode="r") for name in GROUPS},
        {name: np.asarray(signals[:, number]) for number, name in enumerate(names)},
    )
    streams = out / "residuals"
    layers = tuple(json.loads((streams / "settings.json").read_text())["layers"])
    kept = {name: np.load(streams / f"{name}.npy", mmap_mode="r") for name in READ_GROUPS}
    spans = json.loads((out / "spans.settings.json").read_text())["spans"]
    return GateRows(table, Residuals(layers, kept), has_claims=spans == "lexical")


def gate_logits(probe: Probe, gate: GateRows) -> Floats:
    """What a probe says of every row, before calibration [R].

    Raises:
        NoComparisonError: The run has not kept what this probe reads.
    """
    if probe.locator == "lexical" and not gate.has_claims:
        raise NoComparisonError(
            f"{_label(probe)} judges the claims that the lexical locator finds, and this run marked answers in another "
            "way: train with --spans lexical"
        )
    if probe.locator != "lexical" and probe.position != "own":
        raise NoComparisonError(f"{_label(probe)} reads predicting rows of whole responses, which no run keeps")
    group = (
        "response" if probe.locator != "lexical" else {"own": "answer", "predicting": "answer_ahead"}[probe.position]
    )
    place = gate.table.place
    cett = np.asarray(gate.table.groups[group][place[:, None], probe.neurons.flat], dtype=np.float64)
    heads: dict[Part, Floats] = {"cett": cett @ probe.weights.astype(np.float64) + probe.intercept}
    if probe.residual is not None:
        heads["residual"] = _residual_logits(probe, gate.residuals, group, place)
    combination = Combination(probe.risk_model.weights, probe.risk_model.intercept)
    return combination.logits(part_columns(gate.table, heads, probe.locator))


def compare(new: ProbeArtifact, old: ProbeArtifact, gate: GateRows) -> Verdict:
    """Judge a new probe beside the one that it would follow.

    Raises:
        NoComparisonError: The old one cannot be judged on these rows.
        ValueError: A split lacks a class.
    """
    here = {split: gate.table.in_split(split) for split in (FILTERED, NATURAL)}
    labels = gate.table.labels
    logits = [gate_logits(artifact.probe, gate) for artifact in (new, old)]
    ours, theirs = (values[here[FILTERED]] for values in logits)
    gain = bootstrap_difference(auroc, ours, theirs, labels[here[FILTERED]])
    errors = [
        metrics.ece(artifact.probe.risk_model.calibration.risks(values[here[NATURAL]]), labels[here[NATURAL]])
        for artifact, values in zip((new, old), logits, strict=True)
    ]
    is_better = gain.value > 0 and gain.low > -AUROC_SLACK and errors[0] - errors[1] <= CALIBRATION_SLACK
    return Verdict(
        is_better,
        {
            "against": f"{_label(old.probe)} {old.sha256[:12]}",
            "auroc": [round(auroc(values, labels[here[FILTERED]]), 4) for values in (ours, theirs)],
            "auroc_gained": gain.as_list(),
            "calibration_error": [round(error, 4) for error in errors],
            "rows": {split: int(rows.sum()) for split, rows in here.items()},
        },
    )


def compare_with_free_signals(new: ProbeArtifact) -> Verdict:
    """Judge a name's first probe by what its own evaluation found."""
    evidence = new.card["evidence"][FILTERED]
    gain = evidence["differences"][f"{SERVED} over {FREE}"]
    auroc_of = [evidence["methods"][name]["auroc"][0] for name in (SERVED, FREE)]
    found = {
        "against": FREE,
        "auroc": auroc_of,
        "auroc_gained": gain,
        "rows": {FILTERED: sum(evidence["rows"].values())},
    }
    return Verdict(gain[1] > 0, found)


def _residual_logits(probe: Probe, residuals: Residuals, group: str, place: NDArray[np.int64]) -> Floats:
    assert probe.residual is not None
    if probe.residual.layer not in residuals.layers:
        raise NoComparisonError(
            f"{_label(probe)} reads the residual stream after layer {probe.residual.layer}, and this run kept layers "
            f"{', '.join(map(str, residuals.layers))}: it cannot be judged on these rows"
        )
    streams = residuals.groups[group][place, residuals.layers.index(probe.residual.layer)]
    return np.asarray(streams.astype(np.float64) @ probe.residual.weights + probe.residual.intercept)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _label(probe: Probe) -> str:
    return f"{probe.name}@{probe.version}"
