"""Reads passages that somebody else's scheduler feeds in pieces, many passages a step, a passage over several steps.

For each token group of a passage the mean CETT of every neuron is summed while the layers run, so memory grows with the
passages of a step and not with their tokens. What a step feeds is told by `begin`, what it gave is kept by `finish`.
Knows no engine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from offline.extraction.passage_reader import pool_signals
from offline.extraction.passages import GROUPS, Passage, group_weights
from probes.cett import EPS, h_norm
from probes.positions import sequence_slice
from probes.signals import free_signals

Keep = Callable[[Sequence[int], Tensor, Sequence[dict[str, float]]], None]
"""Takes finished rows: their numbers [B], features [B, G, neurons] and signals; `FeatureStore.write`."""

_TOGETHER = 4  # passages a matrix product: more are fewer calls, but most of their weights are zeros
_LOGIT_ROWS = 256  # whose logits exist at a time


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step feeds of one passage."""

    row: int
    """Of the store."""
    passage: Passage
    start: int
    """Position of the first fed token in the passage."""
    place: slice
    """Where the fed tokens stand in the step."""

    @property
    def end(self) -> int:
        """Position behind the last fed token."""
        return self.start + len(range(self.place.start, self.place.stop))

    @property
    def scored(self) -> slice:
        """Response tokens that the fed ones predict."""
        first = sequence_slice(len(self.passage.prompt_ids), len(self.passage.response_ids), "predicting").start
        return slice(max(self.start - first, 0), max(min(self.end - first, len(self.passage.response_ids)), 0))


@dataclass(slots=True)
class _Begun:
    fed: int = 0
    sums: Tensor | None = None
    """Of the pieces before this one [G, neurons]."""
    logprobs: list[Tensor] = field(default_factory=list)
    entropies: list[Tensor] = field(default_factory=list)


class PassageSums:
    """Features and free signals of passages that come in pieces: `begin`, `add` for every layer, `finish`."""

    def __init__(self, norms: Sequence[Tensor], most: int, logits_of: Callable[[Tensor], Tensor], keep: Keep) -> None:
        """Allocate.

        Args:
            norms: Column norms of each layer [M], float32, on the model's device.
            most: Passages that a step feeds at most.
            logits_of: Last hidden states [R, D] -> logits [R, V].
            keep: What becomes of finished rows.
        """
        self._norms, self._logits_of, self._keep = norms, logits_of, keep
        self._device = norms[0].device
        self._sums = torch.zeros(most, len(GROUPS), sum(map(len, norms)), device=self._device)
        self._columns: list[slice] = []
        for norm in norms:
            start = self._columns[-1].stop if self._columns else 0
            self._columns.append(slice(start, start + len(norm)))
        self._begun: dict[int, _Begun] = {}
        self._pieces: Sequence[Piece] = ()
        self._blocks: list[tuple[slice, slice, Tensor]] = []
        self._seen: set[int] = set()

    def begin(self, pieces: Sequence[Piece]) -> None:
        """Before a step's forward pass.

        Raises:
            RuntimeError: A piece does not go on where the passage's last one ended.
        """
        self._pieces = pieces
        self._seen.clear()
        for piece in pieces:
            if piece.start == 0:  # also what was preempted and is fed anew
                self._begun[piece.row] = _Begun()
            begun = self._begun.get(piece.row)
            if begun is None or begun.fed != piece.start:
                raise RuntimeError(f"row {piece.row}: tokens before position {piece.start} were not fed")
            begun.fed = piece.end
        self._blocks = [self._block(at, pieces[at : at + _TOGETHER]) for at in range(0, len(pieces), _TOGETHER)]

    def add(self, layer: int, z: Tensor, h: Tensor) -> None:
        """While the pass runs, once for every layer; nothing happens in passes that feed no passage.

        Args:
            layer: Which.
            z: Input of its down projection [R, M]; changed in place.
            h: Output [R, D].
        """
        if not self._pieces:
            return
        z.abs_()
        per_h = 1 / (h_norm(h)[:, 0] + EPS)
        for places, rows, weights in self._blocks:
            out = self._sums[places, :, self._columns[layer]].view(-1, z.shape[1])
            torch.mm(weights * per_h[rows], z[rows].float(), out=out)
            out.mul_(self._norms[layer])
        self._seen.add(layer)

    def finish(self, hidden: Tensor) -> None:
        """After the pass: keep the passages that are whole.

        Args:
            hidden: Last hidden states of the step [R, D].

        Raises:
            RuntimeError: A layer's `add` was not called.
        """
        if not self._pieces:
            return
        missing = sorted(set(range(len(self._norms))) - self._seen)
        if missing:
            raise RuntimeError(f"the taps of layers {missing} did not run")
        self._read_signals(hidden)
        done: list[int] = []
        for at, piece in enumerate(self._pieces):
            begun = self._begun[piece.row]
            if begun.sums is not None:
                self._sums[at] += begun.sums
            if piece.end < piece.passage.length:
                begun.sums = self._sums[at].clone()
            else:
                done.append(at)
        if done:
            whole = [self._pieces[at] for at in done]
            signals = [self._signals(piece) for piece in whole]
            self._keep([piece.row for piece in whole], self._sums[done], signals)
        self._pieces = ()

    def _block(self, first: int, pieces: Sequence[Piece]) -> tuple[slice, slice, Tensor]:
        """Places of a few passages in the sums, their rows in the step, and those rows' weights [passages * G, R]."""
        rows = slice(pieces[0].place.start, pieces[-1].place.stop)
        weights = torch.zeros(len(pieces), len(GROUPS), rows.stop - rows.start)
        for at, piece in enumerate(pieces):
            here = slice(piece.place.start - rows.start, piece.place.stop - rows.start)
            weights[at, :, here] = group_weights(piece.passage, piece.passage.length)[:, piece.start : piece.end]
        return slice(first, first + len(pieces)), rows, weights.flatten(0, 1).to(self._device, non_blocking=True)

    def _read_signals(self, hidden: Tensor) -> None:
        """Log-probability and entropy of the response tokens that this step's rows predict."""
        spans = [piece.scored for piece in self._pieces]
        counts = [max(span.stop - span.start, 0) for span in spans]
        if not sum(counts):
            return
        rows: list[int] = []
        tokens: list[int] = []
        for piece, span in zip(self._pieces, spans, strict=True):
            first = len(piece.passage.prompt_ids) - 1 - piece.start + piece.place.start
            rows += range(first + span.start, first + span.stop)
            tokens += piece.passage.response_ids[span]
        wanted = hidden[torch.tensor(rows).to(hidden.device)]
        targets = torch.tensor(tokens).to(hidden.device)
        read = [
            free_signals(self._logits_of(part), target)
            for part, target in zip(torch.split(wanted, _LOGIT_ROWS), torch.split(targets, _LOGIT_ROWS), strict=True)
        ]
        logprobs, entropies = (torch.split(torch.cat(parts).cpu(), counts) for parts in zip(*read, strict=True))
        for piece, logprob, entropy in zip(self._pieces, logprobs, entropies, strict=True):
            self._begun[piece.row].logprobs.append(logprob)
            self._begun[piece.row].entropies.append(entropy)

    def _signals(self, piece: Piece) -> dict[str, float]:
        begun = self._begun.pop(piece.row)
        return pool_signals(torch.cat(begun.logprobs), torch.cat(begun.entropies), piece.passage.answer)
