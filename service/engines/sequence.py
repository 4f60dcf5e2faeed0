"""RunningSequence: one request while it runs on the engine, and what a pass means for it.

Written by the worker thread alone, but for `is_abandoned`, which the event loop sets. Knows no batch.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from probes.sampling import RowRandom, choose_tokens
from probes.signals import free_signals
from service.engines.base import EngineError, EngineRequest, EvidenceStep, RequestTiming, TokenEvidence
from service.engines.heads import LoadedHeads, PassResult

logger = logging.getLogger(__name__)

Delivery = tuple["RunningSequence", EvidenceStep | EngineError]
"""What the worker hands to the event loop."""


@dataclass(eq=False)
class RunningSequence:
    """A request, the heads it began with, and how far it is."""

    request: EngineRequest
    timing: RequestTiming
    heads: LoadedHeads | None
    steps: asyncio.Queue[EvidenceStep | EngineError] = field(default_factory=asyncio.Queue)
    """Read by the client's task. At most max_tokens + 1 steps wait in it, so a slow client holds up nobody."""
    submitted: float = field(default_factory=time.perf_counter)
    is_abandoned: bool = False
    is_done: bool = False
    n_tokens: int = 0

    def __post_init__(self) -> None:
        seed = self.request.seed
        self._random = RowRandom(secrets.randbits(64) if seed is None else seed % 2**64)

    @property
    def is_running(self) -> bool:
        """Whether it needs another pass."""
        return not (self.is_done or self.is_abandoned)

    @property
    def needs_last_row(self) -> bool:
        """Whether the last token's own row is part of the score."""
        return self.request.is_scored and self.heads is not None and self.heads.bank.position == "own"

    def draw(self) -> float:
        """The uniform number of this step; a greedy request uses none up."""
        return self._random.next() if self.request.sampling.temperature > 0 else 0.0

    def take(
        self, result: PassResult, at: int, token: TokenEvidence, stop_ids: Collection[int]
    ) -> EvidenceStep | EngineError:
        """The step that follows from row `at` of a pass and the token chosen from it."""
        if result.tap_error is not None and self.request.alpha != 1:
            self.is_done = True
            return EngineError(f"alpha {self.request.alpha} was not applied: {result.tap_error}")
        row = result.row(at, -1, wants_neurons=self.request.wants_neurons) if self.request.is_scored else None
        if self.n_tokens == self.request.max_tokens:  # this pass fed the last token for its own row
            self.is_done = True
            return EvidenceStep(row, None, "length")
        if token.token_id in stop_ids:
            self.is_done = True
            return EvidenceStep(row, None, "stop")
        self.n_tokens += 1
        self.is_done = self.n_tokens == self.request.max_tokens and not self.needs_last_row
        return EvidenceStep(row, token, "length" if self.is_done else None)


def advance(
    sequences: Sequence[RunningSequence], result: PassResult, stop_ids: Collection[int], outbox: list[Delivery]
) -> Tensor:
    """Choose each sequence's next token from a pass and hand out its evidence.

    Args:
        sequences: One a row of the pass.
        result: The pass; its last column predicts the tokens.
        stop_ids: End-of-sequence token ids.
        outbox: Steps are appended to it.

    Returns:
        The tokens [B].
    """
    logits = result.logits[:, -1]
    tokens = choose_tokens(logits, [one.request.sampling for one in sequences], [one.draw() for one in sequences])
    logprobs, entropies = free_signals(logits, tokens)
    rows = torch.stack([logprobs, entropies], dim=-1).tolist()
    for at, (sequence, token_id, (logprob, entropy)) in enumerate(zip(sequences, tokens.tolist(), rows, strict=True)):
        if sequence.is_running:
            sequence.timing.scoring_seconds += result.scoring_seconds
            token = TokenEvidence(token_id, logprob, entropy)
            outbox.append((sequence, sequence.take(result, at, token, stop_ids)))
    if result.tap_error is not None:
        logger.error("scores of %d rows are missing: %s", len(sequences), result.tap_error)
    return tokens


def fail(sequences: Sequence[RunningSequence], error: Exception, outbox: list[Delivery]) -> None:
    """End these sequences with an error."""
    for sequence in sequences:
        if sequence.is_running:
            sequence.is_done = True
            outbox.append((sequence, EngineError(f"{type(error).__name__}: {error}")))
