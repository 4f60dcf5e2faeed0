"""Claim: train_probe.py samples and extracts more tokens a second on vLLM than on transformers.

    python benchmarks/bench_offline_vllm.py [--questions 64] [--samples 5] [--rows 192] [--rounds 5] [--gpu-share 0.4]

Sampling: answers with the paper's settings to fresh questions each round, through `offline.sampling.sample` and
`offline.sampling.sample_vllm`; response tokens a second. Extraction: features of the same passages into a fresh store
each time, through `offline.extraction.extract` and `offline.extraction.extract_vllm`; fed tokens a second. Sides run
turn about in one process, ratios are taken within a round, start-up is left out and told. Needs vLLM (`make vllm`). On
a GPU vLLM gets `--gpu-share` of its memory, because the model of transformers is there too.
"""

import argparse
import asyncio
import itertools
import os
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import torch
from _interleaved import compare

from offline.extraction.extract import FeatureStore, extract
from offline.extraction.extract_vllm import VllmExtractor
from offline.extraction.passages import Passage
from offline.questions.loading import load_questions
from offline.records import Question, Response
from offline.sampling.sample import PAPER_SAMPLING, Draws, Job, Sampler
from offline.sampling.sample_vllm import VllmSampler
from probes.models import DEFAULT_MODEL, load_model, load_tokenizer, pick_device, resolve_model
from probes.prompts import ANSWER_ONLY, encode_prompt
from probes.reducing_tap import ReducingTap
from probes.spans import AnswerSpan


def main() -> None:
    args = parse_arguments()
    folder, place = resolve_model(args.model), pick_device("auto")
    tokenizer, model = load_tokenizer(folder), load_model(folder, dtype=args.dtype)
    on_vllm: dict[str, Any] = {"dtype": str(next(model.parameters()).dtype).removeprefix("torch.")}
    if place.type == "cuda":
        on_vllm["arguments"] = {"gpu_memory_utilization": args.gpu_share}
    print(
        f"{args.model} {on_vllm['dtype']} on {place}, {torch.get_num_threads()} threads, {platform.machine()}, torch "
        f"{torch.__version__}; {args.questions} questions of {args.samples} samples, {args.rows} passages; "
        f"{args.rounds} rounds"
    )
    questions = load_questions(["builtin:world"], limit=args.questions * (args.rounds + 1) * 2, seed=0)

    def encode(question: Question) -> list[int]:
        return encode_prompt(tokenizer, question.question + ANSWER_ONLY)

    began = time.perf_counter()
    sampler = VllmSampler(folder, tokenizer, encode, seed=0, **on_vllm)
    print(f"sampling on vLLM starts in {time.perf_counter() - began:.0f} s")
    answers: list[Response] = []
    pool = itertools.cycle(questions)
    fresh = iter(lambda: list(itertools.islice(pool, args.questions)), [])
    sides = [
        sampling(one, fresh, args.samples, answers) for one in (sampler, Sampler(model, tokenizer, encode, seed=0))
    ]
    report("sampling, response", *sides, rounds=args.rounds)
    sampler.close()

    passages = make_passages(answers, {q.question_id: tuple(encode(q)) for q in questions}, args.rows)
    began = time.perf_counter()
    longest = max(passage.length for passage in passages)
    extractor = VllmExtractor(folder, max_length=longest, **on_vllm)
    print(f"extraction on vLLM starts in {time.perf_counter() - began:.0f} s")
    neurons = sum(ReducingTap(model).widths)
    with tempfile.TemporaryDirectory() as scratch:
        stores = (
            FeatureStore(Path(scratch) / str(number), [passage.key for passage in passages], neurons, {})
            for number in itertools.count()
        )
        report(
            "extraction, fed",
            extraction(extractor.extract, passages, stores),
            extraction(lambda rows, store: extract(model, rows, store), passages, stores),
            rounds=args.rounds,
        )
    extractor.close()


Side = Callable[[], Awaitable[float]]
"""Runs once and returns tokens a second."""


def sampling(sampler: Draws, fresh: Iterator[Sequence[Question]], samples: int, answers: list[Response]) -> Side:
    async def run() -> float:
        jobs = [Job(question, tuple(range(1, samples + 1))) for question in next(fresh)]
        began = time.perf_counter()
        drawn = [row for rows in sampler.draw(jobs, PAPER_SAMPLING) for row in rows]
        seconds = time.perf_counter() - began
        answers.extend(drawn)
        return sum(len(row.token_ids) for row in drawn) / seconds

    return run


def extraction(
    fill: Callable[[Sequence[Passage], FeatureStore], None], passages: Sequence[Passage], stores: Iterator[FeatureStore]
) -> Side:
    async def run() -> float:
        store = next(stores)
        began = time.perf_counter()
        fill(passages, store)
        seconds = time.perf_counter() - began
        for file in store.folder.glob("*.npy"):
            file.unlink()
        return sum(passage.length for passage in passages) / seconds

    return run


def make_passages(answers: Sequence[Response], prompts: dict[str, tuple[int, ...]], rows: int) -> list[Passage]:
    """Answers that are there, each an answer span as a whole."""
    found = {f"{row.question_id}/{row.sample}": row for row in answers if row.token_ids}
    return [
        Passage(key, prompts[row.question_id], row.token_ids, (AnswerSpan(0, len(row.token_ids)),))
        for key, row in itertools.islice(found.items(), rows)
    ]


def report(what: str, vllm: Side, plain: Side, *, rounds: int) -> None:
    found = asyncio.run(compare(vllm, plain, rounds=rounds))
    for name, spread in (("vLLM", found.first), ("transformers", found.second)):
        print(f"{what} tokens a second, {name}: {spread.text(0)}")
    print(f"{what} tokens a second, vLLM over transformers: {found.ratio.text(2)}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dtype", default="auto", help="of both sides")
    parser.add_argument("--questions", type=int, default=64, help="a round")
    parser.add_argument("--samples", type=int, default=5, help="of each question")
    parser.add_argument("--rows", type=int, default=192, help="passages that are extracted")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gpu-share", type=float, default=0.4, help="of its memory, for vLLM")
    return parser.parse_args()


if __name__ == "__main__":
    main()
