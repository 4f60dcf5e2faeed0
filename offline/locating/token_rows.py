"""Token rows: what a locator and a probe read of every response token, kept on disk token by token.

    streams  residual stream of the token's own row after a few layers, float16 [tokens, L, D]
    numbers  scores of the probe's N heads, log-probability, entropy, float32 [tokens, N + 2]; nan until it is done

Unlike `offline.extraction.extract`, which keeps one mean a response. Judges nothing.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from offline.extraction.extract import plan_batches
from offline.extraction.passages import Passage
from offline.run import Run
from offline.stages import StageMismatchError, fingerprint, write_json
from probes.positions import sequence_slice
from probes.probe import Probe
from probes.residual import ResidualTap
from probes.signals import free_signals
from probes.tap import HeadTap

BATCH_TOKENS = 768  # columns of a pass, padding included; all of their logits exist at once


@dataclass(frozen=True)
class TokenRows:
    """The response tokens of P passages, one passage after the other."""

    layers: tuple[int, ...]
    starts: NDArray[np.int64]
    """First row of each passage, and one past the last [P + 1]."""
    streams: NDArray[np.float16]
    numbers: NDArray[np.float32]

    def of(self, passage: int) -> slice:
        """The rows of a passage."""
        return slice(int(self.starts[passage]), int(self.starts[passage + 1]))

    def at(self, passages: Iterable[int]) -> NDArray[np.int64]:
        """The rows of some passages, in their order."""
        return np.concatenate([np.arange(self.starts[p], self.starts[p + 1]) for p in passages])


def read_tokens(run: Run, passages: Sequence[Passage], probe: Probe, layers: Sequence[int], folder: Path) -> TokenRows:
    """Read what is not read yet.

    Args:
        run: Gives the model, in its features' type.
        passages: None with an empty response; their spans do not matter here.
        probe: The scores of its heads are kept.
        layers: After which the residual stream is kept.
        folder: Of the files.

    Raises:
        StageMismatchError: The folder holds other passages or layers, or another probe's scores.
    """
    starts = np.concatenate([[0], np.cumsum([len(passage.response_ids) for passage in passages])])
    settings = {
        "passages": fingerprint([(passage.key, passage.token_ids) for passage in passages]),
        "probe": fingerprint([probe.name, probe.version, probe.weights.tolist(), list(probe.heads)]),
        "layers": list(layers),
        **run.extraction_settings,
    }
    text: Any = run.checkpoint.config.get_text_config()
    rows = _open(folder, settings, starts, (len(layers), int(text.hidden_size)), len(probe.heads) + 2)
    todo = [at for at in range(len(passages)) if np.isnan(rows.numbers[rows.of(at)]).any()]
    with tqdm(total=len(passages), initial=len(passages) - len(todo), desc=folder.name, mininterval=10) as bar:
        if not todo:
            return rows
        with _Reader(run.model(run.config.dtype), probe, layers) as reader:
            for batch in plan_batches(passages, todo, BATCH_TOKENS):
                for at, (streams, numbers) in zip(batch, reader.read([passages[at] for at in batch]), strict=True):
                    rows.streams[rows.of(at)] = streams.numpy()
                    rows.numbers[rows.of(at)] = numbers.numpy()
                bar.update(len(batch))
    return rows


def _open(
    folder: Path, settings: dict[str, Any], starts: NDArray[np.int64], shape: tuple[int, int], n_numbers: int
) -> TokenRows:
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / "settings.json"
    if begun.exists() and json.loads(begun.read_text()) != settings:
        raise StageMismatchError(f"{folder} holds other token rows: use another --work, or delete {folder}")
    open_memmap: Any = np.lib.format.open_memmap
    if not begun.exists():
        open_memmap(folder / "streams.npy", "w+", np.float16, (int(starts[-1]), *shape))
        open_memmap(folder / "numbers.npy", "w+", np.float32, (int(starts[-1]), n_numbers))[:] = np.nan
        write_json(begun, settings)
    streams, numbers = (np.load(folder / f"{name}.npy", "r+") for name in ("streams", "numbers"))
    return TokenRows(tuple(settings["layers"]), starts.astype(np.int64), streams, numbers)


class _Reader:
    """Reads batches of passages while its hooks are attached."""

    def __init__(self, model: nn.Module, probe: Probe, layers: Sequence[int]) -> None:
        self._model: Any = model
        self._probe = probe
        self._device = next(model.parameters()).device
        self._tap = HeadTap(model, probe.neurons)
        self._streams = [ResidualTap(model, layer) for layer in layers]
        self._weights = torch.from_numpy(probe.weights).to(self._device)[None]
        self._residual = None if probe.residual is None else ResidualTap(model, probe.residual.layer)
        self._stack = ExitStack()

    def __enter__(self) -> "_Reader":
        self._stack.enter_context(self._tap.attached(scales=False))
        for tap in self._residual_taps:
            self._stack.enter_context(tap.attached())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def _residual_taps(self) -> list[ResidualTap]:
        return [*self._streams, *filter(None, [self._residual])]

    @torch.inference_mode()
    def read(self, batch: Sequence[Passage]) -> list[tuple[Tensor, Tensor]]:
        """Streams [T, L, D] and numbers [T, N + 2] of each passage. Right-padded: no real token sees the padding.

        Raises:
            ValueError: They are not finite.
        """
        ids = torch.zeros(len(batch), max(passage.length for passage in batch), dtype=torch.long)
        for row, passage in enumerate(batch):
            ids[row, : passage.length] = torch.tensor(passage.token_ids)
        self._tap.begin(len(batch), last=None)
        for tap in self._residual_taps:
            tap.begin(last=None)
        logits = self._model(input_ids=ids.to(self._device), use_cache=False).logits
        scores = self._tap.read().scores(self._weights)
        if self._residual is not None:
            assert self._probe.residual is not None
            weights = torch.from_numpy(self._probe.residual.weights).to(scores)
            scores = torch.cat([scores, (self._residual.read().to(scores) @ weights)[..., None]], dim=-1)
        streams = torch.stack([tap.read() for tap in self._streams], dim=2)
        found = []
        for row, passage in enumerate(batch):
            size = len(passage.prompt_ids), len(passage.response_ids)
            own, ahead = sequence_slice(*size, "own"), sequence_slice(*size, "predicting")
            free = free_signals(logits[row, ahead], torch.tensor(passage.response_ids, device=self._device))
            scoring = own if self._probe.position == "own" else ahead
            numbers = torch.cat([scores[row, scoring].float(), torch.stack(free, dim=1)], dim=1).cpu()
            kept = streams[row, own].half().cpu()
            if not (numbers.isfinite().all() and kept.isfinite().all()):
                raise ValueError(f"{passage.key}: the model gave numbers that are not finite")
            found.append((kept, numbers))
        return found
