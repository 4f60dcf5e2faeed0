"""Claim: a refresh deals with many times the questions a minute of the official way, one call a sample.

    python benchmarks/bench_sampling.py [--questions 192] [--official-questions 3] [--rounds 3] [--agreement 0.5]

The official way (`collect_responses.py` of github.com/thunlp/H-Neurons) makes ten calls for every question, one after
the other; here each is a `generate` call of transformers with the paper's settings, on the same model object. Ours is
`offline.sampling.asking`: a greedy answer to every question, then samples of those that can still become rows, all
batched. It is also measured drawing all ten samples of every question, to tell the batching from the selection.

Both sides judge by alias. The questions are `builtin:world`, shuffled; each round takes the next ones, the official
side the first few of them. Questions a minute, sides turn about in one process, ratios within a round.
"""

import argparse
import itertools
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from _interleaved import Spread
from torch import nn

from offline.labels.judge import judge_alias
from offline.questions.loading import load_questions
from offline.records import Question, Response
from offline.sampling.asking import ask_greedy, ask_samples, pick_questions
from offline.sampling.sample import PAPER_SAMPLING, Job, Sampler
from offline.stages import Stage
from probes.models import DEFAULT_MODEL, load_model, load_tokenizer, resolve_model
from probes.prompts import ANSWER_ONLY, encode_prompt

SAMPLES, MAX_TOKENS = 10, 50
"""Of the paper."""


class Sides:
    """The three ways to ask; each returns when all its questions are asked and judged."""

    def __init__(self, model: nn.Module, tokenizer: Any, *, agreement: float, scratch: Path) -> None:
        self.model, self.tokenizer, self.agreement, self.scratch = model, tokenizer, agreement, scratch
        self._runs = itertools.count()

    @torch.inference_mode()
    def official(self, questions: Sequence[Question]) -> None:
        """One call a sample."""
        model: Any = self.model
        for question in questions:
            ids = torch.tensor([self._encode(question)])
            for _ in range(SAMPLES):
                output = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=PAPER_SAMPLING.temperature,
                    top_p=PAPER_SAMPLING.top_p,
                    top_k=PAPER_SAMPLING.top_k,
                    max_new_tokens=MAX_TOKENS,
                )
                judge_alias(question, self.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))

    def all_samples(self, questions: Sequence[Question]) -> None:
        """Ten samples of every question, batched."""
        by_id = {question.question_id: question for question in questions}
        jobs = [Job(question, tuple(range(1, SAMPLES + 1))) for question in questions]
        for rows in self._sampler().draw(jobs, PAPER_SAMPLING):
            for row in rows:
                judge_alias(by_id[row.question_id], row.text)

    def selected(self, questions: Sequence[Question]) -> None:
        """A greedy answer to all, samples where they can matter."""
        sampler, out = self._sampler(), self.scratch / str(next(self._runs))
        greedy: Stage[Response] = Stage(out, "greedy", Response, {})
        ask_greedy(greedy, questions, sampler)
        by_id = {question.question_id: question for question in questions}
        verdicts = {row.question_id: judge_alias(by_id[row.question_id], row.text)[0] for row in greedy.rows()}
        picked = pick_questions(questions, verdicts, surplus=1.5, seed=0)
        samples: Stage[Response] = Stage(out, "samples", Response, {})
        ask_samples(samples, picked, verdicts, sampler, n=SAMPLES, agreement=self.agreement)

    def _sampler(self) -> Sampler:
        return Sampler(self.model, self.tokenizer, self._encode, seed=0, max_tokens=MAX_TOKENS)

    def _encode(self, question: Question) -> list[int]:
        return encode_prompt(self.tokenizer, question.question + ANSWER_ONLY)


def main() -> None:
    args = parse_arguments()
    folder = resolve_model(args.model)
    model, tokenizer = load_model(folder, dtype=args.dtype, device="auto"), load_tokenizer(folder)
    questions = load_questions(["builtin:world"], limit=args.questions * (args.rounds + 1), seed=0)
    print(
        f"{args.model} {args.dtype} on {next(model.parameters()).device}, {torch.get_num_threads()} threads, "
        f"{platform.machine()}, torch {torch.__version__}; {args.questions} questions a round, "
        f"{args.official_questions} of them the official way; {args.rounds} rounds"
    )
    with tempfile.TemporaryDirectory() as scratch:
        sides = Sides(model, tokenizer, agreement=args.agreement, scratch=Path(scratch))
        rates = measure(sides, questions, args)
    for name, values in rates.items():
        print(f"{name}: {Spread.of(values).text(1)} questions a minute")
    for name in ("all samples", "selected"):
        ratios = [ours / theirs for ours, theirs in zip(rates[name], rates["official"], strict=True)]
        print(f"{name} over official: {Spread.of(ratios).text(1)}")


def measure(sides: Sides, questions: Sequence[Question], args: argparse.Namespace) -> dict[str, list[float]]:
    ways: dict[str, tuple[Callable[[Sequence[Question]], None], int]] = {
        "official": (sides.official, args.official_questions),
        "all samples": (sides.all_samples, args.questions),
        "selected": (sides.selected, args.questions),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for way, _ in ways.values():
        way(questions[:1])  # warms up
    for at in range(args.rounds):
        fresh = questions[at * args.questions : (at + 1) * args.questions]
        for name in names[at % len(names) :] + names[: at % len(names)]:
            way, count = ways[name]
            began = time.perf_counter()
            way(fresh[:count])
            rates[name].append(60 * count / (time.perf_counter() - began))
    return rates


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dtype", default="bfloat16", help="of both sides")
    parser.add_argument("--questions", type=int, default=192)
    parser.add_argument("--official-questions", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--agreement", type=float, default=0.5, help="the higher, the fewer samples")
    return parser.parse_args()


if __name__ == "__main__":
    main()
