"""The residual stream of every labelled response after a few decoder layers, its mean over the tokens that score it.

One float32 array a token group beside the features; a row that is not there yet is nan, so a killed run goes on.
The passes are `offline.extraction.extract`'s once more, without logits and only as deep as the last layer that is read.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from offline.extraction.extract import plan_batches
from offline.extraction.passages import GROUPS, Passage, group_weights
from offline.features.table import Table
from offline.run import Run
from offline.stages import StageMismatchError, fingerprint, write_json
from probes.architectures import decoder_layers
from probes.residual import ResidualTap

LAYERS = 8
"""Layers that are tried."""
READ_GROUPS = ("answer", "answer_ahead", "response")


@dataclass(frozen=True)
class Residuals:
    """What the residual head is fitted on."""

    layers: tuple[int, ...]
    groups: dict[str, NDArray[np.float32]]
    """Memory maps [responses, L, D], one a token group; index them with `Table.place`."""


def candidate_layers(n_layers: int) -> tuple[int, ...]:
    """Layers from a quarter to four fifths of the depth, where linear detectors read best."""
    return tuple(sorted({int(at) for at in np.linspace(n_layers // 4, 0.8 * n_layers - 1, LAYERS)}))


def extract_residuals(run: Run, table: Table, upstream: str) -> Residuals:
    """The residual streams of a table's passages."""
    model: Any = run.model(run.config.dtype)
    layers = candidate_layers(len(decoder_layers(model)))
    settings = {
        "spans": upstream,
        "dtype": str(model.dtype),
        "layers": layers,
        "rows": fingerprint([passage.key for passage in table.passages]),
    }
    shape = (len(table.passages), len(layers), int(model.config.get_text_config().hidden_size))
    store = _Store(run.out / "residuals", shape, settings)
    todo = [row for row in range(len(table.passages)) if not store.is_done(row)]
    if todo:
        reader = _Reader(model, layers)
        with tqdm(total=len(table.passages), initial=len(table.passages) - len(todo), desc="residuals") as bar:
            for rows in plan_batches(table.passages, todo, 1024):
                store.write(rows, reader.read([table.passages[row] for row in rows]))
                bar.update(len(rows))
    return Residuals(layers, store.groups)


class _Deep(Exception):
    """Ends a pass behind the last layer that is read."""


class _Reader:
    """Reads batches of passages."""

    def __init__(self, model: nn.Module, layers: Sequence[int]) -> None:
        self._model: Any = model
        self._taps = [ResidualTap(model, layer) for layer in layers]
        self._device = next(model.parameters()).device

    @torch.inference_mode()
    def read(self, batch: Sequence[Passage]) -> Tensor:
        """Mean streams [B, groups, L, D] float32. Right-padded: under a causal mask no real token sees the padding."""
        columns = max(passage.length for passage in batch)
        ids = torch.zeros(len(batch), columns, dtype=torch.long)
        for row, passage in enumerate(batch):
            ids[row, : passage.length] = torch.tensor(passage.token_ids)
        picked = [GROUPS.index(name) for name in READ_GROUPS]
        weights = torch.stack([group_weights(passage, columns)[picked] for passage in batch]).to(self._device)
        with ExitStack() as stack:
            for tap in self._taps:
                stack.enter_context(tap.attached())
                tap.begin(last=None)
            stack.callback(self._taps[-1].module.register_forward_hook(_stop).remove)
            with suppress(_Deep):
                self._model(input_ids=ids.to(self._device), use_cache=False, logits_to_keep=1)
            return torch.stack([torch.bmm(weights, tap.read().float()) for tap in self._taps], dim=2)


def _stop(_module: nn.Module, _args: Any, _output: Any) -> None:
    raise _Deep


class _Store:
    def __init__(self, folder: Path, shape: tuple[int, int, int], settings: dict[str, Any]) -> None:
        settings = json.loads(json.dumps(settings))
        folder.mkdir(parents=True, exist_ok=True)
        begun = folder / "settings.json"
        if begun.exists() and json.loads(begun.read_text()) != settings:
            raise StageMismatchError(
                f"{folder} holds streams of other rows or settings: use another --out, or delete {folder}"
            )
        open_memmap: Any = np.lib.format.open_memmap
        files = {name: folder / f"{name}.npy" for name in READ_GROUPS}
        if not begun.exists():
            for file in files.values():
                open_memmap(file, "w+", np.float32, shape)[:] = np.nan
            write_json(begun, settings)
        self.groups: dict[str, NDArray[np.float32]] = {name: np.load(file, "r+") for name, file in files.items()}

    def is_done(self, row: int) -> bool:
        return bool(np.isfinite(self.groups[READ_GROUPS[-1]][row]).all())  # the group that is written last

    def write(self, rows: Sequence[int], streams: Tensor) -> None:
        if not streams.isfinite().all():
            raise ValueError("the model gave residual streams that are not finite; try --dtype float32 or bfloat16")
        for name, values in zip(READ_GROUPS, streams.unbind(dim=1), strict=True):
            self.groups[name][list(rows)] = values.cpu().numpy()
