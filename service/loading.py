"""Loading: settings -> engine and probe artifact, with every failure in one line that names the fix."""

import logging

from probes.artifact import ArtifactError, ProbeArtifact
from probes.fingerprint import check_same_model
from probes.registry import ProbeNotFoundError, find_probe
from service.engines.base import Engine
from service.engines.fake import FakeEngine
from service.engines.fake_probe import fake_artifact
from service.engines.registry import EngineChoice, EngineUnavailableError, build_engine
from service.guard.judge import LOCATORS
from service.settings import Settings

logger = logging.getLogger("hguard")


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
        vllm_slots=settings.vllm_slots,
        vllm_args=settings.vllm_args,
        fake_step_seconds=settings.fake_step_s,
        fake_fault=settings.fake_fault,
    )
    try:
        return build_engine(settings.engine, choice)
    except EngineUnavailableError as error:
        raise StartupError(f"HGUARD_ENGINE={settings.engine}: {one_line(error)}") from error
    except (OSError, ValueError, RuntimeError) as error:  # no such model, a broken folder, no such device
        raise StartupError(f"HGUARD_MODEL={settings.model}: {one_line(error)}") from error
    except Exception as error:  # half a file, a key that is missing: whatever the loaders of others raise
        logger.error("HGUARD_MODEL=%s cannot be loaded", settings.model, exc_info=error)
        raise StartupError(f"HGUARD_MODEL={settings.model}: {type(error).__name__}: {one_line(error)}") from error


def load_probe(settings: Settings, engine: Engine) -> ProbeArtifact:
    """Load the probe artifact.

    Raises:
        StartupError: There is none by that name, it is damaged, or `default` fits none to the model.
    """
    if isinstance(engine, FakeEngine) and settings.probe == "default":
        return fake_artifact()
    try:
        return find_probe(settings.probe, engine.fingerprint(settings.model), settings.probes_dir)
    except (ProbeNotFoundError, ArtifactError) as error:
        raise StartupError(f"HGUARD_PROBE={settings.probe}: {one_line(error)}") from error


def check_probe(engine: Engine, artifact: ProbeArtifact) -> None:
    """The probe was trained on the loaded weights and its answer tokens can be located.

    Raises:
        ModelMismatchError: It was not; says what differs.
        ValueError: It names a locator that this version does not have.
    """
    locator = artifact.probe.locator
    if locator not in LOCATORS:
        raise ValueError(f"the probe was calibrated with locator {locator!r}; this version has {', '.join(LOCATORS)}")
    found = engine.fingerprint()
    check_same_model(artifact.model, artifact.probe, found, lambda: engine.column_norms(artifact.probe.neurons))


def one_line(error: BaseException) -> str:
    """The message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
