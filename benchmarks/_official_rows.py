"""The official extraction and classifier scripts on rows of ours: files laid out for them, then their own `main`.

    FOLDER/answer_tokens.jsonl                     {key: {question, response, answer_tokens}}, a line a row
    FOLDER/ids/NAME.json                           {"t": faithful keys, "f": hallucinated keys}
    FOLDER/activations/LOCATION/act_KEY.npy        what the extraction writes, [layers, neurons], a file a row
    FOLDER/fits/NAME.joblib and .txt               what the classifier saves, and what it prints

Nothing of their logic is replaced. Around it: the tokenizer's template call returns a tensor, as it did when the
scripts were written, and the model is loaded in float32, as our features are, where the script loads bfloat16. The
classifier needs scikit-learn below 1.10, which drops its option `penalty`. A row file that is there and whole is not
made again, nor is a fit.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import joblib
import numpy as np
import torch
from _official import OldTokenizer, load_official
from numpy.typing import NDArray

from offline.extraction.passages import Passage
from offline.stages import write_json
from probes.models import load_model, load_tokenizer
from probes.spans import char_span_to_tokens, token_offsets

ANSWER, OTHER = "answer_tokens", "all_except_answer_tokens"


@dataclass(frozen=True)
class OfficialRow:
    """A conversation as the official scripts read it, and how its text compares with ours."""

    key: str
    """Our key, fit for a file name."""
    question: str
    response: str
    answer_tokens: tuple[str, ...]
    """Of its own tokenisation of the response, those that hold our first span."""
    has_region: bool
    """Whether the script finds the answer tokens at all."""
    is_look_alike: bool
    """Whether the region that it finds, the first that reads like the answer tokens, is another than the span."""
    is_retokenised: bool
    """Whether its tokenisation of the response differs from the tokens that the model made."""
    has_more_spans: bool
    """Whether ours pools over further spans, which one run of answer tokens cannot express."""


class OfficialRows:
    """Rows of ours in a folder, for the scripts of a checkout."""

    def __init__(self, checkout: Path, folder: Path, model: Path, device: str = "cpu") -> None:
        """Load the extraction script and the tokenizer.

        Raises:
            SystemExit: The checkout has no extraction script, or the model has no chat template.
        """
        self.checkout, self.folder, self.model, self.device = checkout, folder, model, device
        self.script = load_official(checkout)
        self.tokenizer = OldTokenizer(load_tokenizer(model))
        if not self.tokenizer.chat_template:
            raise SystemExit(f"{model} is a base model: the official script needs a chat template")
        for part in ("ids", "fits"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def lay_out(self, passage: Passage, question: str, response: str) -> OfficialRow:
        """A passage of ours as the scripts are given it.

        Args:
            passage: What ours read.
            question: The user's turn, instruction included.
            response: The response's text.
        """
        ids = tuple(self.tokenizer.encode(response, add_special_tokens=False))
        ours, first = token_offsets(self.tokenizer, passage.response_ids), passage.spans[0]
        span = char_span_to_tokens(token_offsets(self.tokenizer, ids), ours[first.start][0], ours[first.end - 1][1])
        answer = [self.tokenizer.decode([token]) for token in ids[span.start : span.end]] if span else []
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
        rendered = torch.tensor([self.tokenizer.apply_chat_template(messages)])
        region = self.script.get_region_indices(rendered, self.tokenizer, question, response, answer)[ANSWER]
        at = len(passage.prompt_ids)
        return OfficialRow(
            key=quote(passage.key, safe=""),
            question=question,
            response=response,
            answer_tokens=tuple(answer),
            has_region=region is not None,
            is_look_alike=bool(region and span and region != (at + span.start, at + span.end)),
            is_retokenised=ids != passage.response_ids,
            has_more_spans=len(passage.spans) > 1,
        )

    def extract(self, rows: Sequence[OfficialRow], locations: Sequence[str]) -> None:
        """Run the extraction script's `main` on the rows that have no whole file at each location yet."""
        missing = [row for row in rows if not all(_is_whole(self.features(row.key, place)) for place in locations)]
        if not missing:
            return
        samples = self.folder / "answer_tokens.jsonl"
        with samples.open("w", encoding="utf-8") as file:
            for row in missing:
                sample = {name: getattr(row, name) for name in ("question", "response", "answer_tokens")}
                file.write(json.dumps({row.key: sample}, ensure_ascii=False) + "\n")
        ids = self.write_ids("extracted", {row.key: 0 for row in missing})
        options = ["--model_path", self.model, "--input_path", samples, "--train_ids_path", ids]
        options += ["--output_root", self.folder / "activations", "--locations", *locations]
        tokenizers = SimpleNamespace(from_pretrained=lambda _: self.tokenizer)
        models = SimpleNamespace(
            from_pretrained=lambda path, **_: load_model(Path(path), dtype="float32", device=self.device)
        )
        with (
            patch.object(sys, "argv", ["extract_activations.py", *map(str, options)]),
            patch.multiple(self.script, AutoTokenizer=tokenizers, AutoModelForCausalLM=models),
        ):
            self.script.main()

    def features(self, key: str, location: str) -> Path:
        """Where the features of a row are."""
        return self.folder / "activations" / location / f"act_{key}.npy"

    def write_ids(self, name: str, labels: Mapping[str, int]) -> Path:
        """Key -> label (1 = hallucinated) in the scripts' layout; t is what is true, thus faithful."""
        path = self.folder / "ids" / f"{name}.json"
        groups = {
            "t": [k for k, label in labels.items() if not label],
            "f": [k for k, label in labels.items() if label],
        }
        write_json(path, groups)
        return path

    def classify(self, settings: "Settings", train: Path, *tests: Path) -> "Fit":
        """Fit the classifier on some rows and let it print what it reaches on others.

        Args:
            settings: Its options.
            train: Ids to fit on.
            tests: Ids to be judged on, at least one.
        """
        name = f"{settings.name}-{train.stem}"
        saved, printed = (self.folder / "fits" / f"{name}{end}" for end in (".joblib", ".txt"))
        answers, others = (self.features("", location).parent for location in (ANSWER, OTHER))
        if not printed.exists():
            fit = ["--train_ids", train, "--train_ans_acts", answers, "--save_model", saved, *settings.options]
            judge = [["--test_ids", test, "--test_acts", answers] for test in tests]
            told = self._run_classifier([*fit, "--train_other_acts", others, *judge[0]])
            for options in judge[1:]:
                told += self._run_classifier(["--load_model", saved, *options])
            printed.write_text(told, encoding="utf-8")
        return Fit(settings, saved, read_results(printed.read_text(encoding="utf-8")))

    def _run_classifier(self, options: Iterable[Any]) -> str:
        command = [sys.executable, self.checkout / "scripts" / "classifier.py", "--model_path", self.model, *options]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise SystemExit(f"the official classifier failed:\n{done.stderr[-2000:]}")
        return done.stdout

    def score(self, fit: "Fit", keys: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Probability [n] of label 1, by which the classifier judges AUROC, and its predictions [n]."""
        model = joblib.load(fit.saved)
        rows = np.stack([np.load(self.features(key, ANSWER)).ravel() for key in keys])
        return model.predict_proba(rows)[:, 1], model.predict(rows)


@dataclass(frozen=True)
class Settings:
    """The classifier's options."""

    mode: str
    c: float
    penalty: str = "l1"

    @property
    def name(self) -> str:
        """Fit for a file name."""
        return f"{self.mode}-{self.penalty}-{self.c:g}"

    @property
    def options(self) -> list[str]:
        """As the command line has them."""
        return ["--train_mode", self.mode, "--C", str(self.c), "--penalty", self.penalty]


@dataclass(frozen=True)
class Fit:
    """A fitted classifier and what its script printed."""

    settings: Settings
    saved: Path
    results: tuple[Mapping[str, float], ...]
    """accuracy and auroc of each test, in the order asked for."""

    @property
    def weights(self) -> NDArray[np.float64]:
        """Of all neurons [neurons]."""
        return np.asarray(joblib.load(self.saved).coef_[0])


_RESULTS = re.compile(r"--- Results: Test Set ---\s+Accuracy:\s+([\d.]+).*?AUROC:\s+([\d.]+)", re.DOTALL)


def read_results(printed: str) -> tuple[Mapping[str, float], ...]:
    """What the classifier printed of each test set."""
    return tuple({"accuracy": float(a), "auroc": float(b)} for a, b in _RESULTS.findall(printed))


def _is_whole(path: Path) -> bool:
    """Whether a row's file is there and not torn by a kill."""
    try:
        np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return True
