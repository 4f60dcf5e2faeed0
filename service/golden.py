"""Golden trace: the engine scores the artifact's own sequences and must find the artifact's own numbers.

Catches what runs without an error and scores wrongly: a hook that is skipped, a shifted layer, the wrong row, another
quantisation.
"""

import numpy as np

from probes.positions import align_rows
from service.engines.base import Engine
from service.served import ServedProbe

TOLERANCE = {"float32": 2e-3, "float16": 0.05, "bfloat16": 0.2}
"""Largest error allowed, as a share of the spread of the golden scores: a wrong row is off by about the spread itself."""


class GoldenTraceError(RuntimeError):
    """The engine does not reproduce the artifact's scores."""


async def check_golden(engine: Engine, active: ServedProbe) -> float:
    """Score the golden sequences.

    Args:
        engine: Started, with the probe's heads loaded.
        active: The probe.

    Returns:
        The largest error, as a share of the spread of the golden scores.

    Raises:
        GoldenTraceError: A score is missing, not finite or too far off, or there is no golden trace.
        EngineError: The engine failed.
    """
    if not active.golden:
        raise GoldenTraceError("the probe artifact has no golden trace: write it again with offline/train_probe.py")
    wanted = np.concatenate([sequence.scores for sequence in active.golden]).astype(np.float64)
    found: list[float] = []
    for sequence in active.golden:
        scored = await engine.score(sequence.prompt_ids, sequence.response_ids)
        rows = align_rows(scored.rows, len(sequence.response_ids), active.probe.position)
        found += [row.scores[0] for row in rows]
    if len(found) != len(wanted) or not np.isfinite(found).all():
        raise GoldenTraceError(f"the engine gave {np.isfinite(found).sum()} finite scores for {len(wanted)} golden tokens")
    spread = float(np.ptp(wanted)) or float(np.abs(wanted).max()) or 1.0
    error = float(np.abs(np.asarray(found) - wanted).max()) / spread
    limit = TOLERANCE.get(engine.dtype, TOLERANCE["float32"])
    if error > limit:
        raise GoldenTraceError(
            f"scores differ from the artifact's by {error:.2g} of their spread; {engine.dtype} may differ by {limit:.2g}: "
            "these are other weights, another layer order, or a tap that reads the wrong row"
        )
    return error
