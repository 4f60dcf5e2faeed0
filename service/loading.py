"""Loading: settings -> engine and probe, with every failure in one line that names the fix."""

from pathlib import Path
from typing import Any

from probes.artifact import ModelMismatchError, ProbeArtifact, check_model, load_artifact, resolve_probe
from probes.models import ModelReferenceError
from service.engines.base import Engine
from service.engines.fake import FakeEngine
from service.engines.registry import EngineChoice, EngineUnavailableError, build_engine
from service.fake_probe import fake_probe
from service.served import GoldenSequence, ServedProbe
from service.settings import Settings

SHIPPED = Path(__file__).parents[1] / "probes" / "library"


class StartupError(RuntimeError):
    """The service cannot start by these settings; one line."""


class ProbeRefusedError(ValueError):
    """The probe is not for this model."""


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
    except (ModelReferenceError, OSError, ValueError, RuntimeError) as error:
        raise StartupError(f"HGUARD_MODEL={settings.model}: {one_line(error)}") from error


def load_probe(settings: Settings, engine: Engine) -> ServedProbe:
    """Load the probe artifact.

    Raises:
        StartupError: There is none by that name, it is corrupt, or none of the shipped ones fits the model.
    """
    if isinstance(engine, FakeEngine) and settings.probe == "default":
        return fake_probe()
    try:
        if settings.probe == "default":
            return _default_probe(settings, engine)
        return read_probe(load_artifact(resolve_probe(settings.probe, settings.probes_dir)))
    except (ValueError, OSError) as error:
        raise StartupError(f"HGUARD_PROBE={settings.probe}: {one_line(error)}") from error


def check_fingerprint(engine: Engine, active: ServedProbe) -> None:
    """The probe was trained on the loaded weights.

    Raises:
        ProbeRefusedError: It was not; says what differs.
    """
    model = getattr(engine, "model", None)
    if active.artifact is None or model is None:
        return
    try:
        check_model(active.artifact, model)
    except ModelMismatchError as error:
        raise ProbeRefusedError(one_line(error)) from error
