"""Claim: extraction makes at least 2.5 times the rows a second of the official script, and 0.85 of a bare forward pass.

    python benchmarks/bench_extract.py [--official PATH] [--dtypes float32 bfloat16] [--rows 48] [--rounds 5]

PATH is a checkout of github.com/thunlp/H-Neurons. Its own `CETTManager` and `get_region_indices` are imported from
there and run as its `main` does: one conversation a forward pass, all layers stacked, the mean over answer tokens and
over all others, one file each. Ours is `offline.extraction.extract` into a fresh store. The bare side is the model
alone on the same batches, with logits of the response columns: no hooks, nothing kept; prompts begin alike and ours
feeds that once, so ours may win. Without --official ours is measured against the bare side only.

All sides see the same token ids: real answers of the model, drawn here. Sides run turn about in one process; ratios are
taken within a round. float32 shows that the numbers are the same; bfloat16 is what the official script loads. Peak
memory (Linux only) is that of a process that extracts N or 4 N rows and nothing else.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import torch
from _interleaved import Spread
from _official import Conversation, Official, load_official, render
from torch import nn

from offline.extraction.extract import FeatureStore, extract, plan_batches
from offline.extraction.passages import Passage, shared_prefix
from offline.questions.loading import load_questions
from offline.sampling.sample import GREEDY, Job, Sampler
from probes.models import DEFAULT_MODEL, load_model, load_tokenizer, resolve_model
from probes.prompts import ANSWER_ONLY, encode_prompt
from probes.reducing_tap import ReducingTap
from probes.spans import AnswerSpan, locate_answer, token_offsets

BAR_OFFICIAL, BAR_BARE = 2.5, 0.85
BATCH_TOKENS = 1024


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    folder = resolve_model(args.model)
    if args.memory_rows:
        return extract_in_this_process(folder, args)
    official = load_official(args.official) if args.official else None
    tokenizer = load_tokenizer(folder)
    conversations = draw_conversations(folder, tokenizer, args)
    print(
        f"{args.model}, {torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}; "
        f"{len(conversations)} rows of {np.mean([c.passage.length for c in conversations]):.0f} tokens, "
        f"all beginning with the same {len(shared_prefix([c.passage for c in conversations]))}; {args.rounds} rounds"
    )
    if official is None:
        print("no --official PATH: the official script is not measured")
    for dtype in args.dtypes:
        measure(load_model(folder, dtype=dtype, device="cpu"), tokenizer, conversations, official, args.rounds)
    if sys.platform == "linux":
        peaks = [measure_memory(args, rows) for rows in (args.rows, 4 * args.rows)]
        print(f"peak memory: {args.rows} rows {peaks[0]:.0f} MB, {4 * args.rows} rows {peaks[1]:.0f} MB")


def draw_conversations(folder: Path, tokenizer: Any, args: argparse.Namespace) -> list[Conversation]:
    """Greedy answers whose text gives the same token ids again, with the template's closing tokens after them."""
    questions = load_questions(["builtin:world"], limit=3 * args.rows, seed=0)
    model = load_model(folder, dtype="bfloat16", device="cpu")
    prompts = {q.question_id: q.question + ANSWER_ONLY for q in questions}
    sampler = Sampler(model, tokenizer, lambda q: encode_prompt(tokenizer, prompts[q.question_id]), seed=0)
    found = []
    for rows in sampler.draw([Job(question, (0,)) for question in questions], GREEDY):
        for row in rows:
            prompt = prompts[row.question_id]
            ids, prompt_ids = render(tokenizer, prompt, row.text), encode_prompt(tokenizer, prompt)
            spans = locate_answer(prompt, row.text, token_offsets(tokenizer, row.token_ids))
            if spans and tuple(ids[: len(prompt_ids) + len(row.token_ids)]) == (*prompt_ids, *row.token_ids):
                passage = Passage(row.question_id, tuple(prompt_ids), tuple(ids[len(prompt_ids) :]), (spans[0],))
                found.append(Conversation(row.question_id, prompt, row.text, passage, tokenizer))
    found.sort(key=lambda conversation: conversation.key)
    return found[: args.rows]


def measure(
    model: nn.Module, tokenizer: Any, conversations: Sequence[Conversation], official: Any, n_rounds: int
) -> None:
    passages = [conversation.passage for conversation in conversations]
    with tempfile.TemporaryDirectory() as scratch:
        ours, bare = Ours(model, passages, Path(scratch)), Bare(model, passages)
        sides: dict[str, Callable[[], None]] = {"ours": ours, "bare": bare}
        if official:
            sides["official"] = theirs = Official(official, model, tokenizer, conversations, Path(scratch))
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        cpu: dict[str, list[float]] = {name: [] for name in sides}
        names = list(sides)
        for at in range(n_rounds + 1):
            for name in names[at % len(names) :] + names[: at % len(names)]:
                wall, process = time.perf_counter(), time.process_time()
                sides[name]()
                if at:  # the first round warms up
                    seconds[name].append(time.perf_counter() - wall)
                    cpu[name].append(time.process_time() - process)
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        for name in names:
            print(f"{dtype} {name}: {Spread.of([len(passages) / s for s in seconds[name]]).text(1)} rows a second")
        bars = {"official": BAR_OFFICIAL, "bare": BAR_BARE}
        for name in names[1:]:
            ratios = [
                Spread.of([b / a for a, b in zip(times["ours"], times[name], strict=True)]) for times in (seconds, cpu)
            ]
            verdict = "met" if ratios[0].median >= bars[name] else "missed"
            print(
                f"{dtype} rows a second, ours over {name}: {ratios[0].text(2)} by the wall clock, "
                f"{ratios[1].text(2)} in CPU time (bar {bars[name]}: {verdict})"
            )
        if official:
            compare_features(ours.store, theirs, [passage.key for passage in passages], dtype)


class Ours:
    """`offline.extraction.extract`, into a fresh store each time."""

    def __init__(self, model: nn.Module, passages: Sequence[Passage], scratch: Path) -> None:
        self.model, self.passages, self.scratch, self.runs = model, passages, scratch, 0
        self.neurons = sum(ReducingTap(model).widths)

    def __call__(self) -> None:
        """Extract every passage once."""
        self.runs += 1
        keys = [passage.key for passage in self.passages]
        self.store = FeatureStore(self.scratch / f"ours{self.runs}", keys, self.neurons, {})
        extract(self.model, self.passages, self.store, batch_tokens=BATCH_TOKENS)


class Bare:
    """The model on whole rows in the same batches, logits of the response columns, nothing kept."""

    def __init__(self, model: nn.Module, passages: Sequence[Passage]) -> None:
        self.model, self.passages = model, passages

    @torch.inference_mode()
    def __call__(self) -> None:
        """Run the model over every batch once."""
        for rows in plan_batches(self.passages, range(len(self.passages)), BATCH_TOKENS):
            batch = [self.passages[row] for row in rows]
            columns = max(passage.length for passage in batch)
            ids = torch.zeros(len(batch), columns, dtype=torch.long)
            for at, passage in enumerate(batch):
                ids[at, : passage.length] = torch.tensor(passage.token_ids)
            first = min(len(passage.prompt_ids) for passage in batch) - 1
            self.model(input_ids=ids, use_cache=False, logits_to_keep=torch.arange(first, columns - 1))


def compare_features(store: FeatureStore, theirs: Official, keys: Sequence[str], dtype: str) -> None:
    same = [row for row, conversation in enumerate(theirs.conversations) if theirs.is_same_span(conversation)]
    for name in ("answer", "other"):
        found = np.asarray(store.groups[name], dtype=np.float64)[same]
        expected = np.stack([np.load(theirs.path(name, keys[row])).ravel() for row in same]).astype(np.float64)
        # Below 6e-5 float16 has fewer digits; such features are compared against that.
        difference = np.abs(found - expected)
        relative = difference / np.maximum(expected, np.finfo(np.float16).tiny)
        print(
            f"{dtype} features, {name}: {len(same)} rows with the same region; difference at most "
            f"{difference.max():.1e}, relative: median {np.median(relative):.1e}, "
            f"99.9% below {np.quantile(relative, 0.999):.1e}, "
            f"at most {relative.max():.1e}"
        )


def measure_memory(args: argparse.Namespace, rows: int) -> float:
    """Peak of a process that extracts this many rows [MB]."""
    command = [sys.executable, __file__, "--model", args.model, "--memory-rows", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return float(done.stdout.split()[-1])


def extract_in_this_process(folder: Path, args: argparse.Namespace) -> None:
    import resource

    tokenizer, model = load_tokenizer(folder), load_model(folder, dtype="float32", device="cpu")
    prompt = tuple(encode_prompt(tokenizer, "What is the capital of France?" + ANSWER_ONLY))
    response = tuple(tokenizer("The capital of France is Paris.").input_ids)
    span = AnswerSpan(len(response) - 2, len(response) - 1)
    passages = [Passage(str(row), prompt, response, (span,)) for row in range(args.memory_rows)]
    with tempfile.TemporaryDirectory() as scratch:
        keys, neurons = [passage.key for passage in passages], sum(ReducingTap(model).widths)
        extract(model, passages, FeatureStore(Path(scratch) / "s", keys, neurons, {}), batch_tokens=BATCH_TOKENS)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, metavar="PATH")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch; its default is one a core")
    parser.add_argument("--memory-rows", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
