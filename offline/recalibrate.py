"""Refit a probe's calibration on labelled responses that were served: `python offline/recalibrate.py`.

    labelled rows -> parts -> the probe's own combination -> new calibration, threshold, budgets -> held-out error

Rows come from `hguard-feedback export`; no text is needed. Neurons, weights and the combination of parts stay, so the
order of two risks does too. A new version is written only if its Brier score on held-out rows is lower. People label
what strikes them: risks fitted on such rows hold for such rows.
"""

import argparse
import hashlib
import json
import logging
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from offline.fitting.budgets import choose_budgets
from offline.fitting.calibrate import choose_calibration, choose_threshold
from offline.markdown import render_table
from offline.metrics import Floats, Interval, Ints, bootstrap, brier, ece
from probes.artifact import ArtifactError, ProbeArtifact, load_artifact, save_artifact
from probes.calibration import Calibration
from probes.reference import make_reference

HELD_OUT = 0.3
"""Share of the responses that the new calibration is judged on."""
MIN_ROWS = 20
"""Rows of each class, to fit on and to judge on."""

log = logging.getLogger("hguard.train")


@dataclass(frozen=True)
class FeedbackRows:
    """R labelled responses of one probe."""

    logits: Floats
    """Combined, before calibration [R]."""
    labels: Ints
    """1 = hallucinated [R]."""
    is_held_out: np.ndarray[tuple[int], np.dtype[np.bool_]]
    """By a hash of the response's id, so that more rows never move old ones [R]."""
    left_out: Counter[str]
    """Why rows were left out."""


@dataclass(frozen=True)
class Refit:
    """The new probe, and how both fare on the held-out rows."""

    artifact: ProbeArtifact
    n_fitted: int
    n_held_out: int
    ece: tuple[Interval, Interval]
    """Before and after."""
    brier: tuple[Interval, Interval]

    @property
    def is_better(self) -> bool:
        """Lower Brier score."""
        return self.brier[1].value < self.brier[0].value

    def render(self) -> str:
        """As a table."""
        rows = [[name, *map(str, found)] for name, found in (("calibration error", self.ece), ("Brier", self.brier))]
        return render_table([f"{self.n_held_out} held-out rows", "before", "after"], rows)


def read_rows(path: Path, artifact: ProbeArtifact) -> FeedbackRows:
    """The exported rows that belong to a probe.

    Raises:
        ValueError: A line is no exported row.
    """
    logits, labels, held_out, left_out = list[float](), list[int](), list[bool](), Counter[str]()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            name, label = row["id"], {"faithful": 0, "hallucinated": 1}[row["label"]]
            logit = artifact.probe.risk_model.logit(row["parts"])
            reason = _reason(row["probe_sha256"] == artifact.sha256, is_comparable=row["is_calibrated"], logit=logit)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number} is no row of `hguard-feedback export`: {error!r}") from None
        if reason:
            left_out[reason] += 1
            continue
        logits.append(logit)
        labels.append(label)
        held_out.append(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) < HELD_OUT * 2**32)
    return FeedbackRows(np.array(logits), np.array(labels, np.int64), np.array(held_out, np.bool_), left_out)


def refit(artifact: ProbeArtifact, rows: FeedbackRows, version: str, *, seed: int = 0) -> Refit:
    """Fit the calibration on the rows that are not held out.

    Raises:
        ValueError: Too few rows, or rows that give no risk; says why.
    """
    held, fitted = rows.is_held_out, ~rows.is_held_out
    least = min(int((rows.labels[part] == label).sum()) for part in (held, fitted) for label in (0, 1))
    if least < MIN_ROWS:
        raise ValueError(
            f"{MIN_ROWS} rows of each label are needed to fit on and to judge on, there are {least} of the rarest: "
            f"label more responses ({_explain(rows.left_out) or 'no row was left out'})"
        )
    probe = artifact.probe
    calibration, _ = choose_calibration(rows.logits[fitted], rows.labels[fitted], seed=seed)
    risks = calibration.risks(rows.logits)
    new = replace(
        probe,
        version=version,
        risk_model=replace(probe.risk_model, calibration=calibration),
        threshold=choose_threshold(risks[fitted], rows.labels[fitted]),
        budgets=choose_budgets(risks[fitted], rows.labels[fitted]),
    )
    before, after = (_judge(found, rows) for found in (probe.risk_model.calibration, calibration))
    found = Refit(
        replace(artifact, probe=new, reference=make_reference(risks, "feedback"), sha256=""),
        n_fitted=int(fitted.sum()),
        n_held_out=int(held.sum()),
        ece=(before[0], after[0]),
        brier=(before[1], after[1]),
    )
    card = {
        **artifact.card,
        "ece": after[0].as_list(),
        "recalibrated": {
            "from": {"version": probe.version, "sha256": artifact.sha256},
            "on": time.strftime("%Y-%m-%d", time.gmtime()),
            "rows": {"fitted": found.n_fitted, "held out": found.n_held_out, "left out": dict(rows.left_out)},
            "ece": [interval.as_list() for interval in found.ece],
            "brier": [interval.as_list() for interval in found.brier],
        },
    }
    return replace(found, artifact=replace(found.artifact, card=card))


def describe(found: Refit, old: ProbeArtifact, readme: str) -> str:
    """The new version's README: what changed, then what was known of the old one."""
    probe = found.artifact.probe
    return "\n\n".join(
        [
            f"# {probe.name} {probe.version}",
            f"{old.probe.name} {old.probe.version} with its calibration, threshold and budgets refitted on "
            f"{found.n_fitted} labelled responses of the service; the neurons and the parts of the risk are the same.",
            found.render(),
            f"threshold {probe.threshold:.3f} (before: {old.probe.threshold:.3f}). What follows is the card of version "
            f"{old.probe.version}: rankings (AUROC) hold on, risks and thresholds are the old ones.",
            readme,
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Refit, print, write; 1: the new one is not better, 2: something that the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="folder of the probe that served the responses")
    parser.add_argument("rows", type=Path, help="JSON lines from `hguard-feedback export`")
    parser.add_argument("--version", required=True, help="of the new probe")
    parser.add_argument("--out", type=Path, required=True, help="folder of probes (HGUARD_PROBES_DIR)")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        old = load_artifact(args.artifact)
        rows = read_rows(args.rows, old)
        found = refit(old, rows, args.version)
        log.info("%s\n\n%s", found.render(), _explain(rows.left_out))
        if not found.is_better:
            log.error("not written: on the held-out rows the old calibration is at least as good")
            return 1
        readme = (args.artifact / "README.md").read_text(encoding="utf-8")
        folder = args.out / old.probe.name / args.version
        save_artifact(folder, found.artifact, describe(found, old, readme))
    except (ArtifactError, ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2
    log.info("artifact: %s", folder)
    return 0


def _reason(is_of_probe: bool, *, is_comparable: bool, logit: float) -> str | None:
    """Why a row is left out; None: it is not."""
    if not is_of_probe:
        return "another probe"
    if not is_comparable:
        return "another alpha or locator"
    return None if np.isfinite(logit) else "not scored"


def _judge(calibration: Calibration, rows: FeedbackRows) -> tuple[Interval, Interval]:
    """Calibration error and Brier score on the held-out rows."""
    risks, labels = calibration.risks(rows.logits[rows.is_held_out]), rows.labels[rows.is_held_out]
    return bootstrap(ece, risks, labels), bootstrap(brier, risks, labels)


def _explain(left_out: Counter[str]) -> str:
    return ", ".join(f"left out, {reason}: {n}" for reason, n in left_out.items())


if __name__ == "__main__":
    sys.exit(main())
