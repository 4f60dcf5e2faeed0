"""Checks of the model, the probes and the golden trace, as the service itself would load them. Downloads nothing."""

import asyncio
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probes.architectures import UnsupportedArchitectureError
from probes.artifact import ArtifactError, ProbeArtifact
from probes.checkpoint import Checkpoint
from probes.fingerprint import ModelFingerprint, ModelMismatchError, check_same_model, fingerprint_model
from probes.models import ModelReferenceError, cache_folder, find_model, load_tokenizer
from probes.packaged import PACKAGED
from probes.registry import ProbeNotFoundError, find_probe, list_artifacts, load_listed
from service.cli.finding import Finding
from service.engines.fake import FAKE_MODEL
from service.engines.fake_probe import fake_artifact
from service.lifecycle import Lifecycle
from service.loading import one_line
from service.observe.metrics import Metrics
from service.settings import Settings

_TRAIN = "train a probe for this model with `hguard-train`, and name it in HGUARD_PROBE"
_GB = 1e9


def check_model(settings: Settings) -> tuple[Path | None, Finding]:
    """Its folder where it is on this machine; and what a start would have to fetch where it is not."""
    if settings.engine == "fake":
        return None, Finding("model", "warn", "HGUARD_ENGINE=fake makes tokens and risks up", "for tests only")
    reference = settings.model
    try:
        folder = find_model(reference)
    except ModelReferenceError as error:
        return None, Finding("model", "fail", f"HGUARD_MODEL={reference}: {error}", "see README, Two commands")
    if folder is not None:
        return folder, Finding("model", "ok", f"{reference} in {folder}")
    packaged = PACKAGED.get(reference)
    if packaged is None:
        fix = "the first start asks the Hugging Face hub or converts the file; without a network name a folder"
        return None, Finding("model", "warn", f"{reference} is not on this machine", fix)
    free, need = _free_bytes(cache_folder()), packaged.disk_bytes
    words = f"{reference} is not in {cache_folder()}; it needs {need / _GB:.1f} GB, {free / _GB:.1f} GB are free"
    if free < need:
        return None, Finding("model", "fail", words, "make room, or name another folder with HGUARD_CACHE")
    return None, Finding("model", "warn", words, "the first start downloads it from the package index")


def check_probes(settings: Settings, folder: Path | None) -> Iterator[Finding]:
    """The hashes of every probe on disk, and whether the one that is to be served was trained on this model."""
    n_sound = 0
    for place in list_artifacts(settings.probes_dir):
        try:
            load_listed(place)
            n_sound += 1
        except ArtifactError as error:
            yield Finding("probes", "warn", one_line(error), "copy it again from where it was made, or remove it")
    yield Finding("probes", "ok", f"{n_sound} on disk with the right hashes")
    if settings.engine == "fake" and settings.probe == "default":
        yield Finding("probe", "ok", "the fake engine's own")
        return
    if folder is None and settings.engine != "fake":
        yield Finding("probe", "warn", "not compared with the model, which is not here", "run this again after a start")
        return
    try:
        yield _check_binding(settings, folder)
    except (ProbeNotFoundError, ArtifactError) as error:
        yield Finding("probe", "fail", f"HGUARD_PROBE={settings.probe}: {one_line(error)}", _TRAIN)
    except ModelMismatchError as error:
        yield Finding("probe", "fail", one_line(error), "`hguard probes` lists what there is; or " + _TRAIN)
    except (ModelReferenceError, UnsupportedArchitectureError) as error:
        yield Finding("probe", "fail", one_line(error), "see CONTRIBUTING.md, Adding an architecture")


def check_golden_trace(settings: Settings) -> Finding:
    """Start the engine as the service does and score the probe's own sequences."""
    metrics = Metrics()
    # Labels, keys and what was switched are not touched: only engine and probe are started.
    lifecycle = Lifecycle(settings.model_copy(update={"canary_s": 0.0}), metrics)

    async def prove() -> ProbeArtifact | None:
        await lifecycle.start()
        try:
            return lifecycle.active
        finally:
            await lifecycle.close()

    with _without_log():
        artifact = asyncio.run(prove())
    if lifecycle.reasons or artifact is None:
        if "model" in lifecycle.reasons:  # it was not loaded, so no probe was tried
            fix = "look at HGUARD_MODEL, HGUARD_ENGINE, HGUARD_DEVICE and HGUARD_DTYPE, and at the memory that is free"
        else:
            fix = "the model files, dtype and engine of the probe's training, or another HGUARD_PROBE"
        return Finding("golden trace", "fail", "; ".join(lifecycle.describe()), fix)
    engine = lifecycle.parts.engine if lifecycle.parts else None
    where = f"{engine.kind} on {engine.device}, {engine.dtype}" if engine else ""
    departure = metrics.registry.get_sample_value("hguard_golden_trace_max_error")
    words = f"{artifact.probe.name}@{artifact.probe.version} on {where}: off by {departure:.2g} standard deviations"
    return Finding("golden trace", "ok", words)


@contextmanager
def _without_log() -> Iterator[None]:
    """What fails is said in one line of doctor's own."""
    logger = logging.getLogger("hguard")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_binding(settings: Settings, folder: Path | None) -> Finding:
    """By the files of the model alone: it is not loaded."""
    if folder is None:
        found, artifact = FAKE_MODEL, find_probe(settings.probe, FAKE_MODEL, settings.probes_dir)
        check_same_model(artifact.model, artifact.probe, found, lambda: fake_artifact().probe.norms)
    else:
        checkpoint = Checkpoint(folder)
        found = fingerprint_model(checkpoint.skeleton, load_tokenizer(folder), name=settings.model)
        artifact = find_probe(settings.probe, found, settings.probes_dir)
        neurons = artifact.probe.neurons
        check_same_model(artifact.model, artifact.probe, found, lambda: checkpoint.column_norms(neurons))
    label = f"{artifact.probe.name}@{artifact.probe.version}"
    return Finding("probe", "ok", f"{label} ({artifact.sha256[:12]}) was trained on this {_name(found)}")


def _name(model: ModelFingerprint) -> str:
    return f"{model.architecture} of {len(model.widths)} layers"


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
