"""Loading: settings -> engine and probe artifact, with every failure in one line that names the fix."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import probes
from probes.artifact import ArtifactError, ModelMismatchError, ProbeArtifact, check_model, load_artifact
from service.engines.base import Engine
from service.engines.fake import FakeEngine
from service.engines.registry import EngineChoice, EngineUnavailableError, build_engine
from service.fake_probe import fake_artifact
from service.settings import Settings

SHIPPED = Path(probes.__file__).parent / "library"


class StartupError(RuntimeError):
    """The service cannot start by these settings; one line."""


def load_engine(settings: Settings) -> Engine:
    """Load the model.

    Raises:
        StartupError: It cannot be had, or not on this machine.
    """
    choice = EngineChoice(
        settings.model,
        dtype=settings.dtype,
        device=settings.device,
        max_rows=settings.max_concurrent,
        fake_step_seconds=settings.fake_step_s,
        fake_fault=settings.fake_fault,
    )
    try:
        return build_engine(settings.engine, choice)
    except EngineUnavailableError as error:
        raise StartupError(f"HGUARD_ENGINE={settings.engine}: {one_line(error)}") from error
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # a reference that names nothing, a broken folder, no such device
        raise StartupError(f"HGUARD_MODEL={settings.model}: {one_line(error)}") from error


def load_probe(settings: Settings, engine: Engine) -> ProbeArtifact:
    """Load the probe artifact.

    Raises:
        StartupError: There is none by that name, it is damaged, or none of the shipped ones fits the model.
    """
    if isinstance(engine, FakeEngine) and settings.probe == "default":
        return fake_artifact()
    places = [place for place in (settings.probes_dir, SHIPPED) if place is not None]
    try:
        if settings.probe == "default":
            return _fitting_probe(engine, settings)
        if Path(settings.probe).expanduser().is_dir():
            return load_artifact(Path(settings.probe).expanduser())
        for place in places:
            found = newest([artifact for artifact in _all_probes(place) if _has_name(artifact, settings.probe)])
            if found is not None:
                return found
    except ArtifactError as error:
        raise StartupError(f"HGUARD_PROBE={settings.probe}: {one_line(error)}") from error
    known = sorted({artifact.probe.name for place in places for artifact in _all_probes(place)})
    raise StartupError(
        f"HGUARD_PROBE={settings.probe}: no such probe; give a folder or one of: {', '.join(['default', *known])}"
    )


def check_fingerprint(engine: Engine, artifact: ProbeArtifact) -> None:
    """The probe was trained on the loaded weights.

    Raises:
        ModelMismatchError: It was not; says what differs.
    """
    model: Any = getattr(engine, "model", None)
    if model is not None:
        check_model(artifact, model, engine.tokenizer)


def newest(artifacts: list[ProbeArtifact]) -> ProbeArtifact | None:
    """The highest version; numbers in it count as numbers."""
    return max(artifacts, key=lambda artifact: _version_key(artifact.probe.version), default=None)


def one_line(error: BaseException) -> str:
    """The message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _fitting_probe(engine: Engine, settings: Settings) -> ProbeArtifact:
    fitting = []
    for artifact in _all_probes(SHIPPED):
        try:
            check_fingerprint(engine, artifact)
        except ModelMismatchError:
            continue
        fitting.append(artifact)
    found = newest(fitting)
    if found is None:
        raise StartupError(
            f"HGUARD_MODEL={settings.model}: no shipped probe was trained on this model; train one with "
            "`python offline/train_probe.py --model ... --out DIR`, then set HGUARD_PROBE=DIR"
        )
    return found


def _all_probes(place: Path) -> Iterator[ProbeArtifact]:
    """Every artifact below a folder of probes; a folder that is being written starts with a dot and is passed over."""
    for description in sorted(place.glob("**/probe.json")):
        if not any(part.startswith(".") for part in description.relative_to(place).parts):
            yield load_artifact(description.parent)


def _has_name(artifact: ProbeArtifact, reference: str) -> bool:
    name, _, version = reference.partition("@")
    return artifact.probe.name == name and version in ("", artifact.probe.version)


def _version_key(version: str) -> list[tuple[int, int, str]]:
    parts = version.replace("-", ".").replace("_", ".").split(".")
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
