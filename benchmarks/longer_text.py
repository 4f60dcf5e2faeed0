r"""Question: does the served risk say which sentences and tokens of a longer text are hallucinated?

    python benchmarks/longer_text.py --model smollm2-135m-instruct --probe default --out FILE.json \
        [--sets SET ...] [--limit N]

CROSS-MODEL SCORING: other models wrote these texts and people marked them; the model at hand only reads them, teacher-
forced, through the code of POST /score. That shows how the risk does on what somebody else wrote, not on what the model
makes up itself. Sets, units and prompts are in `offline/longer_text/labelled_text.py`. A text that does not fit the
model's window with its prompt is left out whole and counted; none is cut. Finished texts are kept beside FILE.json, and
a rerun goes on after them, also with a larger limit. Device and dtype are set as the service's, by HGUARD_DEVICE and
HGUARD_DTYPE.
"""

import argparse
import asyncio
import hashlib
import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from offline.longer_text.labelled_text import (
    NO_SOURCE,
    READERS,
    LabelledText,
    UnitKind,
    hash_of,
    read_labelled,
    set_path,
)
from offline.longer_text.unit_metrics import summarise_units
from offline.longer_text.unit_scores import SCORES, TOKEN_SCORES, ScoredText, score_units
from offline.stages import Stage, write_json
from probes.positions import align_rows
from probes.probe import Probe
from service.admission.auth import NO_LIMITS
from service.answering.scoring import plan_score
from service.guard.judge import judge
from service.guard.response import read_scored
from service.lifecycle import Lifecycle
from service.observe.metrics import Metrics
from service.probe_roles.served import ServedModel, probe_label
from service.schemas.score import ScoreRequest
from service.settings import Settings
from service.web.errors import ApiError

STATEMENT = (
    "Cross-model scoring: other models wrote these texts and people labelled them; the scoring model read them "
    "teacher-forced through the code of POST /score. Units of ragtruth_llama2_7b are labelled against a source that "
    "the set does not have, so no prompt could hold it."
)


def main() -> None:
    args = parse_arguments()
    settings = Settings(engine="transformers", model=args.model, probe=args.probe, canary_s=0)
    texts = [text for source in args.sets for text in read_labelled(args.data, source, limit=args.limit)]
    lifecycle = Lifecycle(settings, Metrics())
    files = {source: set_path(args.data, source).read_bytes() for source in args.sets}
    info = {"data_sha256": {source: hashlib.sha256(data).hexdigest() for source, data in files.items()}}
    try:
        scored = asyncio.run(score_all(lifecycle, texts, args.out, info))
    except ApiError as error:  # the reason why nothing can be served
        raise SystemExit(error.message) from error
    report = {"statement": STATEMENT, **scored.made_with, "sets": report_sets(texts, scored.rows, scored.probe)}
    write_json(args.out, report)
    print_tables(report)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Span and sentence risk on labelled text of other models.")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="as HGUARD_MODEL")
    parser.add_argument("--probe", default="default", help="as HGUARD_PROBE")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the sets")
    parser.add_argument("--sets", nargs="+", choices=READERS, default=list(READERS), help="all if left out")
    parser.add_argument("--out", type=Path, required=True, help="report, a JSON file; finished texts lie beside it")
    parser.add_argument("--limit", type=int, help="most texts a set")
    return parser.parse_args()


@dataclass(frozen=True)
class Scored:
    """What `score_all` leaves."""

    probe: Probe
    made_with: dict[str, Any]
    rows: dict[tuple[str, str], ScoredText]
    """(set, text) -> row; texts of an earlier, larger limit are among them."""


async def score_all(lifecycle: Lifecycle, texts: list[LabelledText], out: Path, info: dict[str, Any]) -> Scored:
    """Score what is not scored yet; `info` goes into what the rows are made with.

    The sets take turns, so that a run that was ended can be reported with a lower limit.
    """
    await lifecycle.start()
    try:
        with lifecycle.serving(NO_LIMITS) as served:
            made_with = {
                "model": served.engine.model_name,
                "probe": probe_label(served.probe),
                "probe_sha256": served.artifact.sha256,
                "dtype": served.engine.dtype,
                "device": str(served.engine.device),
                "max_model_len": served.engine.max_model_len,
                "prompt_without_source": NO_SOURCE,
                **info,
            }
            stage = Stage(out.parent, f"{out.stem}_texts", ScoredText, made_with)
            rows = {(row.source, row.text_id): row for row in stage.rows()}
            with stage:
                turns = sorted(texts, key=lambda text: hash_of(text.text_id))
                for text in tqdm(turns, desc="texts", unit="text", mininterval=10):
                    if (text.source, text.text_id) not in rows:
                        row = await score_text(served, text)
                        stage.append([row])
                        rows[text.source, text.text_id] = row
            stage.finish(texts=len(rows))
            return Scored(served.probe, made_with, rows)
    finally:
        await lifecycle.close()


async def score_text(served: ServedModel, text: LabelledText) -> ScoredText:
    """One text by the code of POST /score, whose answer has not every number of a token."""
    body, probe = ScoreRequest(prompt=text.prompt, response=text.response), served.probe
    try:
        plan = plan_score(served, body)
    except ApiError as error:
        if error.code != "context_length_exceeded":
            raise
        return ScoredText(text.source, text.text_id, "longer than the model's window")
    scored = await served.engine.score(plan.prompt_ids, plan.response_ids, alpha=plan.guard.alpha, heads=served.heads)
    response = read_scored(served.engine.tokenizer, scored, plan.text, probe.position)
    if response.text != text.response:
        return ScoredText(text.source, text.text_id, "the tokenizer does not give the text back")
    judgement = judge(response, probe, question=plan.guard.question, locator=plan.guard.locator)
    if judgement.status not in ("scored", "no_answer"):
        return ScoredText(text.source, text.text_id, f"status {judgement.status}")
    rows = [row.scores for row in align_rows(response.rows, len(response.tokens), probe.position) if row is not None]
    return ScoredText(
        text.source,
        text.text_id,
        n_prompt=len(plan.prompt_ids),
        status=judgement.status,
        risk=judgement.risk,
        out_of_domain=judgement.out_of_domain,
        starts=tuple(token.start for token in response.tokens),
        ends=tuple(token.end for token in response.tokens),
        logits=tuple(scores[0] + probe.intercept for scores in rows),
        residuals=tuple(scores[1] + probe.residual.intercept for scores in rows) if probe.residual else (),
        logprobs=tuple(token.logprob for token in response.tokens),
        entropies=tuple(token.entropy for token in response.tokens),
        is_answer=tuple(judgement.is_answer(at) for at in range(len(response.tokens))),
    )


def report_sets(texts: list[LabelledText], rows: dict[tuple[str, str], ScoredText], probe: Probe) -> dict[str, Any]:
    """Set -> how its texts fared, and unit -> metrics."""
    sets = {}
    for source, members in itertools.groupby(texts, key=lambda text: text.source):
        pairs = [(text, rows[source, text.text_id]) for text in members]
        kept = [(text, row) for text, row in pairs if not row.left_out]
        kinds: list[UnitKind] = [pairs[0][0].kind]
        if pairs[0][0].marked is not None:
            kinds.append("token")
        sets[source] = {
            "texts": len(pairs),
            "left_out": dict(Counter(row.left_out for _, row in pairs if row.left_out)),
            "status": dict(Counter(row.status for _, row in kept)),
            "texts_out_of_domain": sum(row.out_of_domain is True for _, row in kept),
            "longest_prompt_and_text": max((row.n_prompt + len(row.starts) for _, row in kept), default=0),
            "units": {kind: report_units(kept, kind, probe) for kind in kinds} if kept else {},
        }
    return sets


def report_units(pairs: list[tuple[LabelledText, ScoredText]], kind: UnitKind, probe: Probe) -> dict[str, Any]:
    """The metrics of one kind of unit."""
    units = [unit for text, row in pairs for unit in score_units(text, row, kind, probe.risk_model, probe.domain)]
    try:
        return summarise_units(units, TOKEN_SCORES if kind == "token" else SCORES, probe.threshold)
    except ValueError as error:
        raise SystemExit(f"{pairs[0][0].source}, {kind}s: {error} (--limit)") from error


def print_tables(report: dict[str, Any]) -> None:
    """Markdown, one table a kind of unit."""
    print(f"{report['statement']}\n{report['model']}, probe {report['probe']}, {report['dtype']}, {report['device']}")
    for source, found in report["sets"].items():
        for kind, units in found["units"].items():
            print(f"\n**{source}, {kind}s**: {describe(found, units)}\n")
            titles = "AUROC | same text | risk minus this | F1 shipped (flagged) | F1 chosen (flagged) | r length"
            print(f"| score | {titles} |")
            print("|---|---|---|---|---|---|---|")
            for name, row in units["scores"].items():
                cells = [show(row.get(key)) for key in ("auroc", "auroc_same_text", "risk_minus_this")]
                cells += [show_flags(row.get(key)) for key in ("shipped", "chosen")]
                r = row.get("length_correlation")
                cells.append(f"{r['faithful']:.2f}, {r['hallucinated']:.2f}" if r else "")
                print(f"| {name} | {' | '.join(cells)} |")
            print(f"| flag everything | | | | | {show_flags(units['flag_all'])} | |")


def describe(found: dict[str, Any], units: dict[str, Any]) -> str:
    """The counts in words."""
    left_out = ", ".join(f"{count} {reason}" for reason, count in found["left_out"].items()) or "none"
    n = units["hallucinated"] + units["faithful"]
    texts_outside = found["texts_out_of_domain"] / units["texts"]
    return (
        f"{units['hallucinated']} hallucinated and {units['faithful']} faithful of {units['texts']} texts "
        f"({units['texts_with_both_classes']} with both) in {units['documents']} documents "
        f"(texts left out: {left_out}); median {units['median_tokens']:g} tokens; "
        f"without located tokens {units['without_located_tokens'] / n:.1%}; out of domain "
        f"{units['out_of_domain'] / n:.1%} of the units, {texts_outside:.1%} of the texts"
    )


def show(interval: list[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} [{interval[1]:.3f}, {interval[2]:.3f}]"


def show_flags(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{show(row['f1'])} ({row['flagged']:.0%})"


if __name__ == "__main__":
    main()
