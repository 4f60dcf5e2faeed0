"""Refresh a probe: one call a stage, from questions to an artifact. Run it as `python offline/train_probe.py`.

    questions -> greedy -> samples -> verdicts -> labels -> spans
              -> features -> fit -> calibrate -> evaluate -> artifact

Every stage writes into --out, skips what is complete and resumes what is not: after a kill, run the same command again.
"""

import argparse
import logging
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from offline.build import artifact_folder, build_artifact, find_finished
from offline.domains import ask_domains
from offline.features.p_true import with_p_true
from offline.features.residuals import extract_residuals
from offline.features.table import extract_features, stack_tables
from offline.fitting.probe import fit_probe
from offline.publish import check_place, publish
from offline.questions.rows import QuestionError
from offline.records import LabelledResponse, Question, Response, SpanRow
from offline.refresh import judge, label, mark_spans, read_questions, sample_again, sample_greedy
from offline.run import Run, RunConfig
from offline.stages import StageMismatchError
from probes.models import DEFAULT_MODEL, ModelReferenceError

log = logging.getLogger("hguard.train")


def refresh(config: RunConfig, *, name: str, version: str) -> Path:
    """Run every stage; returns the artifact's folder."""
    run = Run(config)
    labelled = ask_and_label(run)
    labels, _, questions, greedy, made = labelled
    domains = ask_domains(run, questions, labels, made)
    if finished := find_finished(config, made, name, version, domains):
        return finished
    table = extract_features(run, *labelled)
    if domains and domains.spans:
        table = stack_tables(table, extract_features(run, *domains.stages, name="domain-features"))
    if domains:
        questions, greedy = [*questions, *domains.questions], [*greedy, *domains.greedy]
    table = with_p_true(run, table, questions, greedy, made)
    fitted = fit_probe(run, table, extract_residuals(run, table, made), made)
    return build_artifact(run, table, fitted, made, name=name, version=version, domains=domains)


def ask_and_label(
    run: Run,
) -> tuple[list[LabelledResponse], list[SpanRow], list[Question], list[Response], str]:
    """The text stages: labels, spans, questions, greedy answers, and the fingerprint of them all."""
    questions, made = read_questions(run)
    greedy, made = sample_greedy(run, questions, made)
    samples, made = sample_again(run, questions, greedy, made)
    verdicts, made = judge(run, questions, greedy, samples, made)
    labels, made = label(run, questions, greedy, verdicts, made)
    spans, made = mark_spans(run, labels, questions, greedy, made)
    return labels, spans, questions, greedy, made


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and refresh; errors that a user can mend are one line and exit code 2."""
    args = vars(parse_arguments(argv))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    name, version, probes_dir = args["name"], args["version"], args["publish"]
    config = read_config(args)
    name = name or name_probe(config.model)
    try:
        if probes_dir:
            check_place(probes_dir, name, version, artifact_folder(config, name, version))
        folder = refresh(config, name=name, version=version)
        log.info("artifact: %s", folder)
        return publish_if_better(folder, config.out, probes_dir) if probes_dir else 0
    except (QuestionError, StageMismatchError, ModelReferenceError, ValueError, FileExistsError) as error:
        log.error("error: %s", error)
        return 2


def read_config(options: Mapping[str, Any]) -> RunConfig:
    """What a run is made with; the other options say what becomes of it."""
    own = {field.name: options[field.name] for field in fields(RunConfig)}
    return RunConfig(**{**own, "questions": tuple(own["questions"]), "domains": tuple(own["domains"])})


def publish_if_better(folder: Path, out: Path, probes_dir: Path) -> int:
    """Publish, say what came of it, and give the exit code: 1 where the probe is not better.

    Raises:
        ValueError: It cannot be judged.
    """
    published = publish(folder, out, probes_dir)
    if published.verdict is not None:
        log.info("gate: %s", published.verdict)
    if published.folder is None:
        log.error("not published: %s stays as it is", probes_dir)
        return 1
    log.info("published: %s; POST /probes/%s/activate serves it", published.folder, folder.parent.name)
    return 0


def name_probe(model: str) -> str:
    """The last part of a model reference, without revision and .gguf."""
    return Path(model).name.partition("@")[0].removesuffix(".gguf")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; but for the last three each option sets the field of `RunConfig` with its name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default=DEFAULT_MODEL, help="packaged name, folder, .gguf file or Hugging Face id (%(default)s)")
    add("--questions", nargs="+", required=True, metavar="SOURCE", help=_QUESTIONS_HELP)
    add("--out", type=Path, required=True, help="folder of this run: stages, features, artifact")
    add("--reuse", type=Path, metavar="RUN", help="take over answers to the same questions from this run's folder")
    add("--limit", "--budget", type=int, metavar="N", help="most questions a source, for a quick run")
    add("--seed", type=int, default=0, help="decides every draw (%(default)s)")
    add("--samples", type=int, default=10, help="temperature samples of a question that matters (%(default)s)")
    add("--agreement", type=float, default=1.0, help="share of equal verdicts that keeps a question (%(default)s)")
    add("--wrong-per-right", type=float, default=1.1, help="wrong questions sampled for each right one (%(default)s)")
    add("--max-tokens", type=int, default=50, help="response tokens (%(default)s)")
    add("--batch-rows", type=int, default=128, help="rows decoded together (%(default)s)")
    add(
        "--dtype", default="auto", help="of features and golden trace: float32 on a CPU, bfloat16 on CUDA (%(default)s)"
    )
    add(
        "--sampling-dtype",
        default="auto",
        help="of sampling; bfloat16 is several times faster on some CPUs (%(default)s)",
    )
    add(
        "--sampler",
        default="auto",
        choices=["auto", "transformers", "vllm"],
        help="auto: vLLM beside a GPU (%(default)s)",
    )
    add(
        "--extractor",
        default="auto",
        choices=["auto", "transformers", "vllm"],
        help="of features; auto: vLLM beside a GPU, but for mixtures of experts (%(default)s)",
    )
    add("--device", default="auto", help="cpu, cuda, cuda:1 (%(default)s)")
    add("--judge", default="alias", help="alias, or a model behind --endpoint (%(default)s)")
    add("--endpoint", help="base address of an OpenAI-compatible endpoint; key in OPENAI_API_KEY")
    add("--sentences", action="store_true", help='ask without "answer only"')
    add("--spans", default="lexical", choices=["lexical", "alias", "short-answer", "openai"], help="(%(default)s)")
    add("--unfiltered", type=int, default=1000, help="most unfiltered rows in calibration and in test (%(default)s)")
    add("--domains", nargs="+", default=(), metavar="SOURCE", help="only evaluated on, for AUROC by domain")
    add("--domain-rows", type=int, default=600, metavar="N", help="most questions a domain (%(default)s)")
    add("--max-per-mille", type=float, default=1.0, help="most H-neurons per thousand neurons (%(default)s)")
    add("--name", help="of the probe; the model's name if left out")
    add("--version", default="1.0.0", help="of the probe (%(default)s)")
    add(
        "--publish",
        type=Path,
        metavar="DIR",
        help="put it into this folder of probes if it beats the one there; exit code 1 where it does not",
    )
    return parser.parse_args(argv)


_QUESTIONS_HELP = (
    "JSONL, JSONL.gz or parquet files of {id, question, answers}; name=path names the source; "
    "hf:owner/name[:config][:split]; builtin:world; builtin:madeup"
)

if __name__ == "__main__":
    sys.exit(main())
