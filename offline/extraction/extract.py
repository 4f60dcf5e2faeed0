"""Features: one teacher-forced pass a response, reduced to mean CETT of every neuron over groups of tokens.

Kept as half-precision files [rows, neurons], one a token group, beside the free signals of every response. A row's
features are written before its signals, which mark it done, so a killed run continues where it stopped. What the groups
are, `offline.extraction.passages` says; how a batch is read, `offline.extraction.passage_reader`.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from offline.extraction.passage_reader import SIGNALS, PassageReader
from offline.extraction.passages import GROUPS, Passage
from offline.stages import StageMismatchError, fingerprint, write_json


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
            open_memmap: Any = np.lib.format.open_memmap  # numpy 2.3 has no types for it
            for name in GROUPS:
                open_memmap(folder / f"{name}.npy", "w+", np.float16, (len(keys), neurons))
            shape = (len(keys), len(self.signal_names))
            open_memmap(folder / "signals.npy", "w+", np.float64, shape)[:] = np.nan  # nan = not done
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


def extract(model: nn.Module, passages: Sequence[Passage], store: FeatureStore, *, batch_tokens: int = 1024) -> None:
    """Fill the store: batches of rows of like length, `batch_tokens` columns each."""
    done = store.done
    todo = [row for row in range(len(passages)) if not done[row]]
    with tqdm(total=len(passages), initial=len(passages) - len(todo), desc="features", unit="row") as bar:
        if not todo:
            return
        with PassageReader(model, passages).attached() as reader:
            for rows in plan_batches(passages, todo, batch_tokens):
                features, signals = reader.read([passages[row] for row in rows])
                store.write(rows, features, signals)
                bar.update(len(rows))


def plan_batches(passages: Sequence[Passage], rows: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """These rows in batches of at most `batch_tokens` columns, padding included, shortest first."""
    batch: list[int] = []
    for row in sorted(rows, key=lambda row: passages[row].length):
        if batch and (len(batch) + 1) * passages[row].length > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
