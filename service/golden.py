"""Golden trace: the engine scores the artifact's own sequences and must find the artifact's own numbers.

Catches what runs without an error and scores wrongly: a hook that is skipped, a shifted layer, the wrong row, another
quantisation.
"""

import numpy as np

from probes.artifact import GOLDEN_TOLERANCE, ProbeArtifact, golden_error
from probes.positions import align_rows
from service.engines.base import Engine


class GoldenTraceError(RuntimeError):
    """The engine does not reproduce the artifact's scores."""


async def check_golden(engine: Engine, artifact: ProbeArtifact) -> float:
    """Score the golden sequences.

    Args:
        engine: Started, with the probe's heads loaded.
        artifact: The probe with its trace.

    Returns:
        The largest error, in standard deviations of the trace.

    Raises:
        GoldenTraceError: A score is missing, not finite or too far off, or there is no golden trace.
        EngineError: The engine failed.
    """
    golden = artifact.golden
    if not golden.prompt_ids:
        raise GoldenTraceError("the probe artifact has no golden trace: write it again with offline/train_probe.py")
    found = []
    for prompt_ids, response_ids in zip(golden.prompt_ids, golden.response_ids, strict=True):
        scored = await engine.score(prompt_ids, response_ids)
        rows = align_rows(scored.rows, len(response_ids), artifact.probe.position)
        found.append(np.asarray([row.scores[0] for row in rows], dtype=np.float64))
    error = golden_error(artifact, found)
    limit = GOLDEN_TOLERANCE.get(engine.dtype, GOLDEN_TOLERANCE["float32"])
    if not error <= limit:
        raise GoldenTraceError(
            f"scores are {error:.2g} standard deviations away from the artifact's, {engine.dtype} may be {limit:.2g}: "
            "these are other weights, another layer order, or a tap that reads the wrong row"
        )
    return error
