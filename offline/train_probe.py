"""Refresh a probe: one call a stage, from questions to an artifact. Run it as `python offline/train_probe.py`.

    questions -> greedy -> samples -> judge -> spans -> features -> fit -> calibrate -> evaluate -> artifact

Every stage writes into --out, skips what is complete and resumes what is not; a run that was killed is simply started again.
"""

import argparse
import logging
import sys
from pathlib import Path

from offline.asking import ask_greedy, ask_samples, judge_all, pick_questions, sampling_settings
from offline.questions import load_questions
from offline.records import Judgement, Question, Response
from offline.sample import Sampler
from offline.stages import Stage, fingerprint
from probes.models import DEFAULT_MODEL, load_model, load_tokenizer, resolve_model

log = logging.getLogger("hguard.train")


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run all stages."""
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    folder = resolve_model(args.model)
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, dtype=args.sampling_dtype, device=args.device)
    sampler = Sampler(model, tokenizer, seed=args.seed, max_tokens=args.max_tokens, max_rows=args.batch_rows)

    loaded = load_questions(args.questions, limit=args.limit, seed=args.seed)
    asked: Stage[Question] = Stage(args.out, "questions", Question, {"specs": args.questions, "limit": args.limit, "seed": args.seed, "hash": fingerprint([q.question_id for q in loaded])})
    if not asked.is_complete:
        with asked:
            asked.append(loaded)
        asked.finish(questions=len(loaded))
    questions = list(asked.rows())

    greedy: Stage[Response] = Stage(args.out, "greedy", Response, sampling_settings(sampler, args.model, questions=asked.fingerprint))
    ask_greedy(greedy, questions, sampler)
    return 0


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--questions", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=50)
    parser.add_argument("--batch-rows", type=int, default=128)
    parser.add_argument("--sampling-dtype", default="auto")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
