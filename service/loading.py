"""Loading: settings -> engine and probe artifact, with every failure in one line that names the fix."""

import torch
from torch import nn

from probes.artifact import ArtifactError, ProbeArtifact
from probes.fingerprint import check_model, fingerprint_model
from probes.registry import ProbeNotFoundError, find_probe
from service.engines.base import Engine
from service.engines.fake import FakeEngine
from service.engines.registry import EngineChoice, EngineUnavailableError, build_engine
from service.fake_probe import fake_artifact
from service.guard import LOCATORS
from service.settings import Settings


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
    except (OSError, ValueError, RuntimeError) as error:  # no such model, a broken folder, no such device
        raise StartupError(f"HGUARD_MODEL={settings.model}: {one_line(error)}") from error


def load_probe(settings: Settings, engine: Engine) -> ProbeArtifact:
    """Load the probe artifact.

    Raises:
        StartupError: There is none by that name, it is damaged, or `default` fits none to the model.
    """
    if isinstance(engine, FakeEngine):
        if settings.probe == "default":
            return fake_artifact()
        fingerprint = fake_artifact().model
    else:
        fingerprint = fingerprint_model(_model_of(engine), engine.tokenizer, name=settings.model)
    try:
        return find_probe(settings.probe, fingerprint, settings.probes_dir)
    except (ProbeNotFoundError, ArtifactError) as error:
        raise StartupError(f"HGUARD_PROBE={settings.probe}: {one_line(error)}") from error


def check_probe(engine: Engine, artifact: ProbeArtifact) -> None:
    """The probe was trained on the loaded weights (the fake engine has none) and its answer tokens can be located.

    Raises:
        ModelMismatchError: It was not; says what differs.
        ValueError: It names a locator that this version does not have.
    """
    locator = artifact.probe.locator
    if locator not in LOCATORS:
        raise ValueError(f"the probe was calibrated with locator {locator!r}; this version has {', '.join(LOCATORS)}")
    if not isinstance(engine, FakeEngine):
        with torch.inference_mode():  # column norms are numbers here, not a graph
            check_model(artifact.model, artifact.probe, _model_of(engine), engine.tokenizer)


def one_line(error: BaseException) -> str:
    """The message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _model_of(engine: Engine) -> nn.Module:
    """The loaded module of an engine that runs in this process."""
    model: nn.Module = engine.model  # type: ignore[attr-defined]
    return model
