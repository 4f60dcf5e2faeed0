"""Golden trace: the engine scores the artifact's own sequences and must find the artifact's own numbers.

Catches what runs without an error and scores wrongly: a hook that is skipped, a shifted layer, the wrong row, another
quantisation.
"""

import asyncio
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from probes.artifact import GOLDEN_TOLERANCE, ProbeArtifact, golden_error
from probes.positions import align_rows
from service.engines.base import Engine, Heads, ScoredSequence


class GoldenTraceError(RuntimeError):
    """The engine does not reproduce the artifact's scores."""

    def __init__(self, message: str, departure: float = math.inf) -> None:
        super().__init__(message)
        self.departure = departure if math.isfinite(departure) else math.inf
        """The largest error, in standard deviations of the trace; infinite where it could not be measured."""


def departure_of(error: BaseException | None) -> float:
    """How far a trace that failed was off, for `golden_trace_max_error`; infinite where nothing was measured."""
    return error.departure if isinstance(error, GoldenTraceError) else math.inf


async def check_golden(
    engine: Engine, artifact: ProbeArtifact, heads: Heads, timeout_seconds: float, *, first_head: int = 0
) -> float:
    """Score the golden sequences.

    Args:
        engine: Started.
        artifact: The probe with its trace.
        heads: The probe's, in the engine.
        timeout_seconds: How long it may take.
        first_head: Where the probe's own heads begin among them.

    Returns:
        The largest error, in standard deviations of the trace.

    Raises:
        GoldenTraceError: A score is missing, not finite, late or too far off, or there is no golden trace.
        EngineError: The engine failed.
        RequestTooLongError: The trace does not fit the engine.
    """
    golden = artifact.golden
    if not golden.prompt_ids:
        raise GoldenTraceError("the probe artifact has no golden trace: write it again with offline/train_probe.py")
    pairs = zip(golden.prompt_ids, golden.response_ids, strict=True)
    try:
        async with asyncio.timeout(timeout_seconds) as deadline:
            audits = [await engine.audit(*pair, heads=heads) for pair in pairs]
    except TimeoutError:
        if not deadline.expired():
            raise
        raise GoldenTraceError(
            f"not scored within {timeout_seconds:g} s: the engine hangs, or gets to nothing but requests; "
            "HGUARD_CANARY_TIMEOUT_S gives it more time"
        ) from None
    error = max(golden_error(artifact, _scores(copy, artifact, first_head)) for copy in zip(*audits, strict=True))
    limit = GOLDEN_TOLERANCE.get(engine.dtype, GOLDEN_TOLERANCE["float32"])
    if not error <= limit:
        raise GoldenTraceError(
            f"scores are {error:.2g} standard deviations away from the artifact's, {engine.dtype} may be {limit:.2g}: "
            "these are other weights, another layer order, or a tap that reads the wrong row",
            error,
        )
    return error


def _scores(copy: Sequence[ScoredSequence], artifact: ProbeArtifact, first: int) -> list[NDArray[np.float64]]:
    """Of the tokens of each sequence [T, N], from one copy of the model."""
    rows = [align_rows(scored.rows, len(scored.tokens), artifact.probe.position) for scored in copy]
    last = first + len(artifact.probe.heads)
    return [np.asarray([row.scores[first:last] for row in sequence], dtype=np.float64) for sequence in rows]
