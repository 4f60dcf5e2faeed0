"""Features: one teacher-forced pass a response, reduced to mean CETT of every neuron over groups of tokens.

    answer         answer tokens                                   what the probe is trained on
    other          all other tokens, prompt included               label 0 of 3-vs-1
    answer_ahead   answer tokens, scored by their predicting rows
    other_ahead    the rest, likewise
    response       every response token                            what is pooled where no span is found
    prompt         prompt tokens only                              the question-only control

Kept as half-precision files [rows, neurons] beside the free signals of every response. A row's features are written
before its signals, which mark it done, so a killed run continues where it stopped.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from offline.stages import StageMismatchError, fingerprint, write_json
from probes.positions import PositionRule, sequence_slice
from probes.reducing_tap import ReducingTap
from probes.signals import free_signals
from probes.spans import AnswerSpan

GROUPS = ("answer", "other", "answer_ahead", "other_ahead", "response", "prompt")

SIGNALS = ("mean_logprob", "min_logprob", "mean_entropy", "max_entropy", "n_tokens")
"""Of the answer tokens; the same of the whole response follow with the prefix `response_`."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A prompt and response with its answer spans."""

    key: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    spans: tuple[AnswerSpan, ...]
    """At least one; the answer tokens are their union."""

    @property
    def length(self) -> int:
        """Prompt and response tokens."""
        return len(self.prompt_ids) + len(self.response_ids)

    @property
    def answer(self) -> Tensor:
        """Which response tokens are answer tokens [T], bool."""
        mask = torch.zeros(len(self.response_ids), dtype=torch.bool)
        for span in self.spans:
            mask[span.start : span.end] = True
        return mask


def group_weights(sequence: Passage, columns: int) -> Tensor:
    """How much each column counts in each group [G, columns]; every group that has tokens sums to 1."""
    p, t = len(sequence.prompt_ids), len(sequence.response_ids)
    weights = torch.zeros(len(GROUPS), columns)
    rules: dict[str, PositionRule] = {"": "own", "_ahead": "predicting"}
    for name, rule in rules.items():
        scoring = sequence_slice(p, t, rule)
        answer = torch.zeros(columns, dtype=torch.bool)
        answer[scoring] = sequence.answer
        rest = ~answer
        rest[scoring.stop :] = False
        weights[GROUPS.index(f"answer{name}")] = _mean(answer)
        weights[GROUPS.index(f"other{name}")] = _mean(rest)
    column = torch.arange(columns)
    weights[GROUPS.index("response")] = _mean((column >= p) & (column < p + t))
    weights[GROUPS.index("prompt")] = _mean(column < p)
    return weights


def _mean(mask: Tensor) -> Tensor:
    """Weights that take the mean over a mask; all zero where it is empty."""
    return mask / mask.sum().clamp(min=1)


@torch.inference_mode()
def extract_batch(tap: ReducingTap, sequences: Sequence[Passage]) -> tuple[Tensor, list[dict[str, float]]]:
    """Features and free signals of a few responses.

    Rows are right-padded: under a causal mask no real token sees the padding, so no mask is needed.

    Args:
        tap: Attached.
        sequences: B of them, none with an empty response.

    Returns:
        Features [B, G, neurons] float32, and the signals of each response.
    """
    columns = max(sequence.length for sequence in sequences)
    ids = torch.zeros(len(sequences), columns, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : sequence.length] = torch.tensor(sequence.prompt_ids + sequence.response_ids)
    weights = torch.stack([group_weights(sequence, columns) for sequence in sequences])
    device = next(tap.model.parameters()).device
    first = min(len(sequence.prompt_ids) for sequence in sequences) - 1
    features, output = tap.run(
        weights.to(device),
        input_ids=ids.to(device),
        use_cache=False,
        logits_to_keep=torch.arange(first, columns - 1, device=device),
    )
    signals = []
    for row, sequence in enumerate(sequences):
        start = len(sequence.prompt_ids) - 1 - first
        logprobs, entropies = free_signals(
            output.logits[row, start : start + len(sequence.response_ids)],
            torch.tensor(sequence.response_ids, device=device),
        )
        signals.append(pool_signals(logprobs, entropies, sequence.answer.to(device)))
    return features, signals


def pool_signals(logprobs: Tensor, entropies: Tensor, answer: Tensor) -> dict[str, float]:
    """The free signals of the answer tokens (mask [T]) and of the whole response."""
    pooled: dict[str, float] = {}
    for prefix, part in (("", answer), ("response_", torch.ones_like(answer))):
        values = (
            logprobs[part].mean(),
            logprobs[part].min(),
            entropies[part].mean(),
            entropies[part].max(),
            part.sum(),
        )
        pooled |= {prefix + name: float(value) for name, value in zip(SIGNALS, values, strict=True)}
    return pooled


class FeatureStore:
    """The features of a run on disk: a float16 array [rows, neurons] a group, the signals, and which rows are done."""

    def __init__(self, folder: Path, keys: Sequence[str], neurons: int, settings: dict[str, Any]) -> None:
        """Open or continue a store.

        Raises:
            StageMismatchError: The folder holds features of other rows or settings.
        """
        self.folder, self.keys = folder, tuple(keys)
        self.settings = {**settings, "rows": fingerprint(self.keys), "neurons": neurons}
        folder.mkdir(parents=True, exist_ok=True)
        begun = folder / "settings.json"
        if begun.exists() and json.loads(begun.read_text()) != json.loads(json.dumps(self.settings)):
            raise StageMismatchError(
                f"{folder} holds features of other rows or settings: use another --out, or delete {folder}"
            )
        self.signal_names = tuple(prefix + name for prefix in ("", "response_") for name in SIGNALS)
        if not begun.exists():
            for name in GROUPS:
                np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (len(keys), neurons))
            shape = (len(keys), len(self.signal_names))
            np.lib.format.open_memmap(folder / "signals.npy", "w+", np.float64, shape)[:] = np.nan  # nan = not done
            write_json(begun, self.settings)
        self.groups = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in GROUPS}
        self.signals: NDArray[np.float64] = np.load(folder / "signals.npy", mmap_mode="r+")

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which rows are finished [rows]."""
        return np.asarray(~np.isnan(self.signals).any(axis=1))

    def write(self, rows: Sequence[int], features: Tensor, signals: Sequence[dict[str, float]]) -> None:
        """Keep finished rows: features first, then the signals that mark them done.

        Features go through file writes and not through the maps, whose touched pages would count as memory in use.

        Raises:
            ValueError: A number is not finite, naming the row.
        """
        values = features.to(torch.float16).cpu().numpy()
        numbers = np.array([[row[name] for name in self.signal_names] for row in signals])
        is_finite = np.isfinite(values).all(axis=(1, 2)) & np.isfinite(numbers).all(axis=1)
        if not is_finite.all():
            bad = self.keys[rows[int(np.argmin(is_finite))]]
            raise ValueError(f"{bad}: the model gave features that are not finite; try --dtype float32 or bfloat16")
        for group, name in enumerate(GROUPS):
            array = self.groups[name]
            with (self.folder / f"{name}.npy").open("r+b") as file:
                for row, value in zip(rows, values[:, group], strict=True):
                    os.pwrite(file.fileno(), value.tobytes(), array.offset + row * array.strides[0])
        self.signals[rows] = numbers


def extract(model: nn.Module, sequences: Sequence[Passage], store: FeatureStore, *, batch_tokens: int = 2048) -> None:
    """Fill the store: batches of rows of like length, `batch_tokens` columns each."""
    tap = ReducingTap(model)
    done = store.done
    todo = sorted((row for row in range(len(sequences)) if not done[row]), key=lambda row: sequences[row].length)
    with tap.attached(), tqdm(total=len(sequences), initial=int(done.sum()), desc="features", unit="row") as bar:
        while todo:
            take = 1
            while take < len(todo) and (take + 1) * sequences[todo[take]].length <= batch_tokens:
                take += 1
            rows, todo = todo[:take], todo[take:]
            features, signals = extract_batch(tap, [sequences[row] for row in rows])
            store.write(rows, features, signals)
            bar.update(len(rows))
