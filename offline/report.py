"""Write one self-contained page about a probe, with its figures as PNG files. Run it as `python offline/report.py`.

The page shows rows of data sets (top contexts, near matches of labels), so it stays out of the repository;
`--without-contexts` leaves them out, and needs no model.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import numpy as np

from offline.build import MANIFEST
from offline.evaluation.scores import EvaluatedRows, load_scores
from offline.records import DOMAIN
from offline.report_parts import noise
from offline.report_parts.contexts import NeuronContexts, find_contexts
from offline.report_parts.page import Noise, Report, render
from offline.report_parts.sections import draw_layers, draw_slices, make_sections
from offline.report_parts.slices import by_source, classify, table_one
from offline.report_parts.texts import Texts, read_texts
from offline.run import Run, RunConfig
from probes.artifact import ProbeArtifact, load_artifact
from probes.fingerprint import ModelMismatchError
from probes.models import ModelReferenceError

log = logging.getLogger("hguard.report")

PAGE = "report.html"
TEST_SPLITS = ("test", "unfiltered-test")


def write_report(
    run: Path, artifact: Path | None, out: Path, *, has_contexts: bool = True, second_judge: Path | None = None
) -> Path:
    """Make the page and its figures.

    Args:
        run: Folder of a complete run of `train_probe.py`.
        artifact: Folder of its artifact; None for the one that the run's manifest names.
        out: Where report.html and the PNG files go; made if missing.
        has_contexts: Whether rows of data sets may stand on the page.
        second_judge: Verdicts of another judge or of people, to compare the labels with.

    Returns:
        The page.

    Raises:
        ValueError: The run is not complete, or the artifact is another one's; says what to do.
        ModelMismatchError: The model is not the probe's.
    """
    loaded = load_artifact(artifact or _find_artifact(run))
    rows = load_scores(run, loaded.sha256)
    texts = read_texts(run)
    out.mkdir(parents=True, exist_ok=True)
    domains = by_source(rows.take(rows.splits == DOMAIN))
    report = Report(
        artifact=loaded,
        sections=make_sections(out, loaded, rows),
        layers=draw_layers(out, loaded),
        domains=domains,
        domains_picture=draw_slices(out, "domains", "AUROC by domain", domains),
        table_one=table_one(rows.take(rows.splits != "unfiltered-test")),
        overall=classify(rows, rows.splits == "test"),
        noise=_estimate_noise(texts, rows, second_judge),
        contexts=_find_contexts(run, loaded, rows, texts) if has_contexts else None,
    )
    page = out / PAGE
    page.write_text(render(report), encoding="utf-8")
    return page


def _find_artifact(run: Path) -> Path:
    try:
        return run / str(json.loads((run / MANIFEST).read_text())["folder"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{run / MANIFEST} names no artifact ({error}): finish train_probe.py, or give one") from error


def _find_contexts(folder: Path, artifact: ProbeArtifact, rows: EvaluatedRows, texts: Texts) -> list[NeuronContexts]:
    run = Run(RunConfig(artifact.model.name, questions=(), out=folder, sentences=texts.is_sentences))
    return find_contexts(run, artifact, rows, texts)


def _estimate_noise(texts: Texts, rows: EvaluatedRows, second_judge: Path | None) -> Noise:
    greedy = {row.question_id: row.verdict for row in texts.verdicts if row.sample == 0}
    is_test = np.isin(rows.splits, TEST_SPLITS)
    kept = rows.question_ids[rows.splits == "test"].tolist()
    groups = {
        f"all that were sampled again, greedy answer {verdict}": {key for key, v in greedy.items() if v == verdict}
        for verdict in ("right", "wrong")
    }
    groups |= {
        f"kept test rows, greedy answer {verdict}": {k for k in kept if greedy[k] == verdict}
        for verdict in ("right", "wrong")
    }
    labelled = dict(zip(rows.question_ids[is_test].tolist(), rows.labels[is_test].tolist(), strict=True))
    wrong = [(texts.questions[key], texts.greedy[key].text) for key, label in labelled.items() if label == 1]
    second = None
    if second_judge:
        first = {key: "wrong" if label else "right" for key, label in labelled.items()}
        second = noise.compare_judges(first, noise.read_second_judge(second_judge))
    return Noise(
        disagreements=noise.sample_disagreement(texts.verdicts, groups),
        near=noise.find_near_matches(wrong) if wrong and not second else None,
        second=second,
    )


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and write the page; errors that a user can mend are one line and exit code 2."""
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        page = write_report(
            args.run,
            args.artifact,
            args.out or args.run / "report",
            has_contexts=not args.without_contexts,
            second_judge=args.second_judge,
        )
    except (ValueError, ModelMismatchError, ModelReferenceError, OSError) as error:
        log.error("error: %s", error)
        return 2
    log.info("report: %s", page)
    return 0


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN_FOLDER", help="the --out of a complete run of train_probe.py")
    add("--artifact", type=Path, help="folder of the probe; the one that the run's manifest names if left out")
    add("--out", type=Path, help="where report.html and the PNG files go; RUN_FOLDER/report if left out")
    add("--without-contexts", action="store_true", help="show no rows of data sets; needs no model")
    add("--second-judge", type=Path, metavar="FILE", help="verdicts.jsonl of another judge: {question_id, verdict}")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
