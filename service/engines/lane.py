"""Lane: the sequences that decode together under one set of heads, and the prefill by which they come in.

A switch of probes opens a second lane; the first one runs empty. Runs on the worker thread.
"""

import time
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from probes.decoding import DecodeBatch, Prefill
from service.engines.heads import LoadedHeads, PassResult, TappedModel
from service.engines.sequence import Delivery, RunningSequence, advance, fail


class Lane:
    """A decode batch and the sequence of each of its rows."""

    def __init__(self, tapped: TappedModel, heads: LoadedHeads | None, stop_ids: Collection[int]) -> None:
        self.tapped, self.heads, self.stop_ids = tapped, heads, stop_ids
        self.sequences: list[RunningSequence] = []
        self._batch = DecodeBatch(tapped.model)
        self._tokens = torch.zeros(0, dtype=torch.long, device=self._batch.device)

    def step(self, outbox: list[Delivery]) -> None:
        """Feed every row its last token and choose the next."""
        began = time.perf_counter()
        result = _run(self, lambda: self._batch.step(self._tokens)[:, None], is_read=True)
        self._tokens = advance(self.sequences, result, self.stop_ids, outbox)
        for sequence in self.sequences:
            sequence.timing.decode_seconds += time.perf_counter() - began
        self.drop_ended()

    def merge(self, admission: "Admission") -> None:
        """Take in the rows of a finished prefill."""
        self._batch.merge(admission.prefill)
        self._tokens = torch.cat([self._tokens, admission.tokens])
        self.sequences += admission.sequences

    def drop_ended(self) -> None:
        """Free the rows of sequences that are done or were abandoned."""
        kept = [at for at, sequence in enumerate(self.sequences) if sequence.is_running]
        if len(kept) < len(self.sequences):
            self._batch.keep(kept)
            self.sequences = [self.sequences[at] for at in kept]
            self._tokens = self._tokens[kept]


class Admission:
    """Sequences that are being prefilled together, a chunk a turn."""

    def __init__(self, tapped: TappedModel, sequences: list[RunningSequence], stop_ids: Collection[int]) -> None:
        self.tapped, self.sequences, self.stop_ids = tapped, sequences, stop_ids
        self.heads = sequences[0].heads
        self.prefill = Prefill(tapped.model, [sequence.request.prompt_ids for sequence in sequences])
        self.tokens = torch.zeros(0, dtype=torch.long)
        self._began = time.perf_counter()
        for sequence in sequences:
            sequence.timing.queue_seconds = self._began - sequence.submitted

    def step(self, max_tokens: int, outbox: list[Delivery]) -> bool:
        """Feed the next chunk, of about `max_tokens` over all rows; True when nothing is left to feed."""
        columns = max(1, max_tokens // len(self.sequences))
        is_last = self.prefill.fed + columns >= self.prefill.columns
        result = _run(self, lambda: self.prefill.step(columns), is_read=is_last)
        if result.tap_error is not None and not is_last:
            # Before the last chunk only alpha needs the tap.
            fail([sequence for sequence in self.sequences if sequence.request.alpha != 1], result.tap_error, outbox)
            self.drop_ended()
        if is_last:
            self.tokens = advance(self.sequences, result, self.stop_ids, outbox)
            for sequence in self.sequences:
                sequence.timing.prefill_seconds = time.perf_counter() - self._began
            self.drop_ended()
        return is_last or not self.sequences

    def drop_ended(self) -> None:
        """Free the rows of sequences that are done or were abandoned."""
        kept = [at for at, sequence in enumerate(self.sequences) if sequence.is_running]
        if 0 < len(kept) < len(self.sequences):
            self.prefill.keep(kept)
            self.tokens = self.tokens[kept] if len(self.tokens) else self.tokens
        self.sequences = [self.sequences[at] for at in kept]


def _run(rows: Lane | Admission, forward: Callable[[], Tensor], *, is_read: bool) -> PassResult:
    return rows.tapped.run(
        rows.heads,
        forward,
        alphas=[sequence.request.alpha for sequence in rows.sequences],
        is_read=is_read and any(sequence.request.is_scored for sequence in rows.sequences),
    )
