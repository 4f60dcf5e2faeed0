"""Probe artifact: a folder with everything a probe needs, bound to its model. Loading one executes nothing.

    probe.json          schema version, probe, model fingerprint, card
    probe.safetensors   neurons, weights, norms, golden trace
    README.md           the card, for people

`save` writes the folder whole or not at all. `check_model` and `check_golden` are what stands between a wrong model, a
changed layer or a silent hook and a score that looks right.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from probes.calibration import Calibration
from probes.domain import Domain, PartRange
from probes.fingerprint import ModelFingerprint
from probes.neurons import NeuronSet
from probes.probe import Probe, ResidualHead
from probes.reference import RiskReference
from probes.risk import Budget, RiskModel

SCHEMA_VERSION = 3


class ArtifactError(ValueError):
    """The folder is not a probe artifact that this version can read."""


@dataclass(frozen=True)
class GoldenTrace:
    """Token sequences and the scores they must give."""

    prompt_ids: tuple[tuple[int, ...], ...]
    response_ids: tuple[tuple[int, ...], ...]
    scores: tuple[NDArray[np.float32], ...]
    """Scores of the probe's heads for each response token in float32 [T, N], aligned by the probe's position rule."""


@dataclass(frozen=True)
class ProbeArtifact:
    """A probe with its model binding, its golden trace and its card."""

    probe: Probe
    model: ModelFingerprint
    golden: GoldenTrace
    card: dict[str, Any] = field(default_factory=dict)
    """Evidence: how it was trained and what it reached."""
    reference: RiskReference | None = None
    """How risks were distributed when it was made; None in artifacts that carry none."""
    sha256: str = ""
    """Of probe.json and probe.safetensors together; set by `save_artifact` and `load_artifact`."""


def golden_error(artifact: ProbeArtifact, scores: Sequence[NDArray[np.floating]]) -> float:
    """Largest departure of an engine's scores from the golden trace, over the standard deviation of that head's trace.

    Args:
        artifact: The artifact.
        scores: The engine's head scores of the golden sequences [T, N] each, aligned by the probe's position rule.

    Returns:
        The error; inf where a score is missing or not finite.
    """
    expected, actual = (_columns(rows) for rows in (artifact.golden.scores, scores))
    if actual.shape != expected.shape or not expected.size or not np.isfinite(actual).all():
        return float("inf")  # also where nothing was compared
    spread = np.maximum(expected.std(axis=0), np.finfo(np.float32).tiny)
    return float((np.abs(actual - expected).max(axis=0) / spread).max())


GOLDEN_TOLERANCE = {"float32": 2e-3, "float64": 2e-3, "bfloat16": 0.35, "float16": 0.1}
"""Largest `golden_error` by the engine's dtype; a shifted layer, wrong row or dead hook is off by 1 or more."""


def save_artifact(folder: Path, artifact: ProbeArtifact, readme: str) -> ProbeArtifact:
    """Write an artifact folder; it appears whole.

    Args:
        folder: Must not exist yet.
        artifact: What to write.
        readme: The card as Markdown.

    Returns:
        The artifact with its sha256.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists: artifacts are never overwritten, choose another version")
    folder.parent.mkdir(parents=True, exist_ok=True)
    probe = artifact.probe
    arrays: dict[str, NDArray[Any]] = {
        "layer": probe.neurons.layer,
        "index": probe.neurons.index,
        "weights": probe.weights,
        "norms": probe.norms,
        "golden_scores": _columns(artifact.golden.scores).astype(np.float32),
        "golden_prompt_ids": np.concatenate([np.asarray(ids, np.int64) for ids in artifact.golden.prompt_ids]),
        "golden_response_ids": np.concatenate([np.asarray(ids, np.int64) for ids in artifact.golden.response_ids]),
        "golden_prompt_lengths": np.asarray([len(ids) for ids in artifact.golden.prompt_ids]),
        "golden_response_lengths": np.asarray([len(ids) for ids in artifact.golden.response_ids]),
    }
    if probe.residual is not None:
        arrays["residual_weights"] = probe.residual.weights
    tensors = save(arrays)
    described = {
        "schema_version": SCHEMA_VERSION,
        "tensors_sha256": _sha256(tensors),
        "probe": {
            "name": probe.name,
            "version": probe.version,
            "intercept": probe.intercept,
            "position": probe.position,
            "threshold": probe.threshold,
            "locator": probe.locator,
            "residual": probe.residual and {"layer": probe.residual.layer, "intercept": probe.residual.intercept},
            "risk": {
                "weights": dict(probe.risk_model.weights),
                "intercept": probe.risk_model.intercept,
                "calibration": asdict(probe.risk_model.calibration),
            },
            "budgets": [asdict(budget) for budget in probe.budgets],
            "domain": {
                "ranges": {part: list(found) for part, found in probe.domain.ranges.items()},
                "cutoff": probe.domain.cutoff,
            },
        },
        "model": asdict(artifact.model),
        "reference": artifact.reference and asdict(artifact.reference),
        "card": artifact.card,
    }
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "artifact"
        made.mkdir()
        (made / "probe.safetensors").write_bytes(tensors)
        (made / "probe.json").write_text(json.dumps(described, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (made / "README.md").write_text(readme, encoding="utf-8")
        os.rename(made, folder)
    return load_artifact(folder)


def load_artifact(folder: Path) -> ProbeArtifact:
    """Read an artifact folder.

    Raises:
        ArtifactError: Missing or damaged files, another schema version, or values that make no probe.
    """
    try:
        text = (folder / "probe.json").read_bytes()
        tensors = (folder / "probe.safetensors").read_bytes()
        described = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{folder} is not a probe artifact: {error}") from error
    version = described.get("schema_version") if isinstance(described, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtifactError(f"{folder}: schema version {version}, this hguard reads {SCHEMA_VERSION}")
    if described.get("tensors_sha256") != _sha256(tensors):
        raise ArtifactError(f"{folder}: probe.safetensors is not the file that probe.json was written with")
    try:
        arrays = load(tensors)
        model = ModelFingerprint(**{**described["model"], "widths": tuple(described["model"]["widths"])})
        return ProbeArtifact(
            probe=_probe(described["probe"], model.widths, arrays),
            model=model,
            golden=_golden(arrays),
            card=described["card"],
            reference=_reference(described.get("reference")),
            sha256=_sha256(text + tensors),
        )
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: {type(error).__name__}: {error}") from error


def _probe(described: dict[str, Any], widths: tuple[int, ...], arrays: dict[str, NDArray[Any]]) -> Probe:
    risk, domain = described["risk"], described["domain"]
    calibration = dict(risk["calibration"])
    calibration["points"] = tuple((float(x), float(y)) for x, y in calibration["points"])
    apart = ("risk", "domain", "budgets", "residual")
    others = {name: value for name, value in described.items() if name not in apart}
    residual = described["residual"]
    return Probe(
        **others,
        residual=residual and ResidualHead(**residual, weights=arrays["residual_weights"]),
        risk_model=RiskModel(**{**risk, "calibration": Calibration(**calibration)}),
        domain=Domain(**{**domain, "ranges": {part: PartRange(*found) for part, found in domain["ranges"].items()}}),
        budgets=tuple(Budget(**budget) for budget in described["budgets"]),
        neurons=NeuronSet(widths, arrays["layer"], arrays["index"]),
        weights=arrays["weights"],
        norms=arrays["norms"],
    )


def _reference(described: dict[str, Any] | None) -> RiskReference | None:
    if described is None:
        return None
    edges, counts = map(float, described["edges"]), map(int, described["counts"])
    return RiskReference(tuple(edges), tuple(counts), str(described["rows"]))


def _golden(arrays: dict[str, NDArray[Any]]) -> GoldenTrace:
    prompts = _split(arrays["golden_prompt_ids"], arrays["golden_prompt_lengths"])
    responses = _split(arrays["golden_response_ids"], arrays["golden_response_lengths"])
    scores = _split(arrays["golden_scores"], arrays["golden_response_lengths"])
    if not all(len(row) for row in (*prompts, *responses)) or len(prompts) != len(responses):
        raise ValueError("the golden trace holds an empty prompt or response")
    if not np.isfinite(arrays["golden_scores"]).all():
        raise ValueError("golden scores are not finite")
    return GoldenTrace(
        prompt_ids=tuple(tuple(row.tolist()) for row in prompts),
        response_ids=tuple(tuple(row.tolist()) for row in responses),
        scores=tuple(scores),
    )


def _split(flat: NDArray[Any], lengths: NDArray[np.integer]) -> list[NDArray[Any]]:
    if not len(lengths) or int(lengths.sum()) != len(flat):
        raise ValueError("golden trace lengths do not add up")
    return np.split(flat, np.cumsum(lengths)[:-1])


def _columns(scores: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Scores of several sequences, one below the other [sum of T, N]."""
    rows = [np.asarray(row, dtype=np.float64).reshape(len(row), -1) for row in scores]
    return np.concatenate(rows) if rows else np.zeros((0, 0))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
