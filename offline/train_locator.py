"""Train and judge an answer-token locator: a linear head on the residual stream, from spans of sentence answers.

    python offline/train_locator.py <the options of a finished train_probe.py run> --work FOLDER --probe FOLDER

    sentence, detail -> gold spans -> token rows -> layer and threshold by cross-validation -> evaluation

Every stage writes into --work and is resumed; the finished run is only read. It serves nothing: the choice and the
tables go into FOLDER/locator.json, the held-out rows into FOLDER/located.jsonl, the head into FOLDER/head.npz.
"""

import argparse
import json
import logging
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from offline.extraction.passages import Passage
from offline.features.residuals import candidate_layers
from offline.locating.evaluate import Located, evaluate_locators, pool
from offline.locating.fit import FittedLocator, LocatorTokens, fit_locator
from offline.locating.locators import Cuts, choose_claim_cut, locate_all, mask_of
from offline.locating.marked_examples import question_key, read_examples
from offline.locating.sentence_answers import SentenceAnswer, ask_sentences
from offline.locating.token_rows import TokenRows, read_tokens
from offline.questions.rows import QuestionError
from offline.run import Run, RunConfig
from offline.stages import StageMismatchError, write_json
from offline.train_probe import ask_and_label
from offline.train_probe import parse_arguments as parse_run
from probes.artifact import ArtifactError, load_artifact
from probes.models import ModelReferenceError
from probes.spans import AnswerSpan

log = logging.getLogger("hguard.train")


def main(argv: list[str] | None = None) -> int:
    """Train and judge; errors that a user can mend are one line and exit code 2."""
    args, rest = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = vars(parse_run(rest))
    del options["name"], options["version"], options["publish"]
    config = RunConfig(**{**options, "questions": tuple(options["questions"]), "domains": tuple(options["domains"])})
    try:
        train_locator(config, args)
    except (QuestionError, StageMismatchError, ModelReferenceError, ArtifactError, ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2
    return 0


def train_locator(config: RunConfig, args: argparse.Namespace) -> None:
    """Every stage, from a finished run to the tables."""
    probe = load_artifact(args.probe).probe
    labels, _, questions, greedy, _ = ask_and_label(Run(config))
    run = Run(replace(config, out=args.work))
    answers = ask_sentences(run, labels, questions, greedy, unfiltered=args.unfiltered_questions, details=args.details)
    counts = Counter(f"{a.split} {a.style} {a.verdict}{' with gold' if a.gold else ''}" for a in answers)
    log.info("answers: %s", json.dumps(dict(sorted(counts.items()))))
    keys = {question_key(question.question) for question in questions}
    examples = read_examples(args.examples, run.tokenizer, limit=args.example_rows, without=keys)
    passages = [_as_passage(run, answer) for answer in answers] + examples
    layers = candidate_layers(len(run.checkpoint.widths))[::2]
    rows = read_tokens(run, passages, probe, layers, args.work / "tokens")
    training = [at for at, a in enumerate(answers) if a.split == "train" and (a.gold or a.verdict == "refusal")]
    fits = fit_both(rows, answers, training, examples)
    best = max(fits, key=lambda name: max(row["average_precision"] for row in fits[name].grid))
    fitted = fits[best]
    cuts = Cuts(fitted.threshold, choose_claim_cut([answers[at] for at in training], fitted.unseen))
    logits = fitted.logits(rows)
    located = [
        pool(a, locate_all(a, logits[rows.of(at)], cuts), np.asarray(rows.numbers[rows.of(at)]), probe)
        for at, a in enumerate(answers)
        if a.split == "test"
    ]
    chosen = {"fitted_on": best, "layer": fitted.head.layer, "cuts": asdict(cuts), "training_responses": len(training)}
    grids = {name: fit.grid for name, fit in fits.items()}
    result = {"answers": counts, "examples": len(examples), **chosen, "grids": grids}
    write_json(args.work / "locator.json", {**result, "tables": evaluate_locators(located)})
    np.savez(args.work / "head.npz", weights=fitted.head.weights, intercept=fitted.head.intercept)
    (args.work / "located.jsonl").write_text("".join(json.dumps(_as_row(row)) + "\n" for row in located))
    log.info("locator: %s", json.dumps(chosen))


def fit_both(
    rows: TokenRows, answers: list[SentenceAnswer], training: list[int], examples: list[Passage]
) -> dict[str, FittedLocator]:
    """The head fitted on the training answers, and on them and the marked examples of other models."""
    own = LocatorTokens(
        np.array(training),
        tuple(answers[at].key for at in training),
        tuple(mask_of(_gold(answers[at]), len(answers[at].offsets)) for at in training),
    )
    other = LocatorTokens(
        np.arange(len(answers), len(answers) + len(examples)),
        tuple(passage.key for passage in examples),
        tuple(passage.answer.numpy() for passage in examples),
    )
    fits = {"sentence answers": fit_locator(rows, own)}
    return fits | ({"sentence answers and marked examples": fit_locator(rows, own, other)} if examples else {})


def parse_arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Own options, and those of the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder of the stages and the result")
    add("--probe", type=Path, required=True, help="artifact whose risk is pooled")
    add("--unfiltered-questions", type=int, default=700, help="most unfiltered questions a split (%(default)s)")
    add("--details", type=int, default=250, help="most questions a split asked for detail too (%(default)s)")
    add("--examples", type=Path, required=True, help="h_neurons_examples/train.jsonl.gz")
    add("--example-rows", type=int, default=1000, help="most of them (%(default)s)")
    return parser.parse_known_args(argv)


def _as_passage(run: Run, answer: SentenceAnswer) -> Passage:
    prompt = tuple(run.encode(answer.question, sentences=True))
    spans = (AnswerSpan(0, len(answer.response.token_ids)),)
    return Passage(f"{answer.style}/{answer.question.question_id}", prompt, answer.response.token_ids, spans)


def _gold(answer: SentenceAnswer) -> list[AnswerSpan]:
    return [answer.gold] if answer.gold else []


def _as_row(row: Located) -> dict[str, Any]:
    spans = {name: [[span.start, span.end] for span in found] for name, found in row.spans.items()}
    a = row.answer
    return {
        "question_id": a.question.question_id,
        "style": a.style,
        "question": a.question.question,
        "text": a.response.text,
        "verdict": a.verdict,
        "length": row.length,
        "spans": spans,
        "logit": row.logit,
        "risk": row.risk,
    }


if __name__ == "__main__":
    sys.exit(main())
