"""Teacher forcing: scores given responses, several together, a chunk a turn so that generation goes on beside it.

Chunks also bound memory: logits of a long response over a large vocabulary never exist at once. Runs on the worker
thread.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.decoding import Prefill
from probes.signals import free_signals
from service.engines.base import EngineError, RowEvidence, ScoredSequence, TokenEvidence
from service.engines.heads import LoadedHeads, TappedModel

MAX_SCORED_TOKENS = 4096
"""Tokens of jobs that are scored together, padding included; a longer one runs alone."""
_MAX_LOGITS = 2**24
"""Logits in one chunk, rows x columns x vocabulary; a few float32 copies of them exist."""


@dataclass(eq=False)
class ScoreJob:
    """A response to score under the heads that were loaded when it was asked for."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    heads: LoadedHeads
    alpha: float = 1.0
    wants_neurons: bool = False
    result: Future[ScoredSequence] = field(default_factory=Future)

    @property
    def n_rows(self) -> int:
        """Rows r_0 ... r_T."""
        return len(self.response_ids) + 1


class TeacherForcing:
    """Jobs with the same heads, left-padded into one pass."""

    def __init__(self, tapped: TappedModel, jobs: Sequence[ScoreJob]) -> None:
        self.tapped = tapped
        self.jobs, self.heads = tuple(jobs), jobs[0].heads
        self.prefill = Prefill(tapped.model, [job.prompt_ids + job.response_ids for job in jobs])
        self._first = self.prefill.columns - max(job.n_rows for job in jobs)
        """The first column that is a scored row of any job."""
        config: Any = tapped.model.config
        self._max_columns = max(1, _MAX_LOGITS // (len(jobs) * int(config.get_text_config().vocab_size)))
        self._targets = self._pad_targets()
        self._signals: list[Tensor] = []
        self._scores: list[NDArray[np.float64]] = []
        self._neurons: list[NDArray[np.float32]] = []

    def step(self, max_tokens: int) -> bool:
        """Feed the next chunk, of about `max_tokens` over all jobs; True when the results are out.

        Raises:
            EngineError: The tap did not run.
        """
        start = self.prefill.fed
        columns = max(1, max_tokens // len(self.jobs))
        is_scored = start >= self._first
        columns = min(columns, self._max_columns if is_scored else self._first - start)
        columns = min(columns, self.prefill.columns - start)
        kept = columns if is_scored else 1
        result = self.tapped.run(
            self.heads,
            lambda: self.prefill.step(columns, logits_to_keep=kept),
            alphas=[job.alpha for job in self.jobs],
            is_read=is_scored,
            last=kept,
        )
        if result.tap_error is not None:
            raise EngineError(str(result.tap_error)) from result.tap_error
        if is_scored:
            at = start - self._first
            signals = free_signals(result.logits, self._targets[:, at : at + columns])
            self._signals.append(torch.stack(signals, dim=-1).cpu())
            self._scores.append(np.asarray(result.scores, dtype=np.float64))
            if result.cett is not None and any(job.wants_neurons for job in self.jobs):
                self._neurons.append(result.cett.float().cpu().numpy())
        is_done = self.prefill.fed == self.prefill.columns
        if is_done:
            self._publish()
        return is_done

    def _pad_targets(self) -> Tensor:
        """The token that each scored column predicts; 0 where there is none."""
        columns = self.prefill.columns - self._first
        targets = torch.zeros(len(self.jobs), columns, dtype=torch.long)
        for row, job in enumerate(self.jobs):
            targets[row, columns - job.n_rows : columns - 1] = torch.tensor(job.response_ids, dtype=torch.long)
        return targets.to(self.prefill.lengths.device)

    def _publish(self) -> None:
        signals = torch.cat(self._signals, dim=1).tolist()
        scores = np.concatenate(self._scores, axis=1)
        neurons = np.concatenate(self._neurons, axis=1) if self._neurons else None
        for row, job in enumerate(self.jobs):
            tokens = tuple(
                TokenEvidence(token_id, logprob, entropy)
                for token_id, (logprob, entropy) in zip(job.response_ids, signals[row][-job.n_rows : -1], strict=True)
            )
            cett = neurons[row, -job.n_rows :] if job.wants_neurons and neurons is not None else None
            rows = tuple(
                RowEvidence(tuple(values), None if cett is None else cett[at])
                for at, values in enumerate(scores[row, -job.n_rows :].tolist())
            )
            job.result.set_result(ScoredSequence(tokens, rows))


def fail_jobs(jobs: Sequence[ScoreJob], error: Exception) -> None:
    """End these jobs with an error."""
    for job in jobs:
        if not job.result.done():
            job.result.set_exception(EngineError(f"{type(error).__name__}: {error}"))
