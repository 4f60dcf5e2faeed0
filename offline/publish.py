"""Publish a probe: put a finished artifact into a service's folder of probes, if it beats the one that is there.

    <folder>/<name>/<version>/    probe.json, probe.safetensors, README.md, publish.json (why it was let in)

Only these files: the estimator of a run is a pickle and stays there. The folder appears whole or not at all, and a
version that is there is never touched. Publishing serves nothing yet: the operator activates.
"""

import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from offline.evaluation.gate import Verdict, compare, compare_with_free_signals, read_gate
from probes.artifact import ArtifactError, ProbeArtifact, load_artifact
from probes.fingerprint import check_same_model
from probes.registry import list_artifacts
from probes.serving_state import ProbeReference, read_state, sync_folder

FILES = ("probe.json", "probe.safetensors", "README.md")


@dataclass(frozen=True)
class Published:
    """What became of a probe."""

    folder: Path | None
    """Where it lies now; None: it was not let in."""
    verdict: Verdict | None
    """None: it lay there already."""


def check_place(probes_dir: Path, name: str, version: str, made: Path) -> None:
    """Find out before a long run that its probe could not be published.

    Args:
        probes_dir: The service's folder of probes.
        name: Of the probe.
        version: Likewise.
        made: Where the run writes the artifact, or has written it.

    Raises:
        FileExistsError: Another probe has that version.
        ArtifactError: What lies there, or was made, is damaged.
    """
    place = probes_dir / name / version
    if place.exists() and not (made.exists() and load_artifact(made).sha256 == load_artifact(place).sha256):
        raise FileExistsError(f"{place} exists: a published version is never replaced, choose another --version")


def publish(made: Path, out: Path, probes_dir: Path) -> Published:
    """Judge a finished artifact and publish it if it is better.

    Args:
        made: The artifact's folder in the run.
        out: The run's folder.
        probes_dir: The service's folder of probes; made if missing.

    Raises:
        ValueError: It cannot be judged (`offline.evaluation.gate`), is of another model than the one it would follow,
            or that one is damaged.
        FileExistsError: Another probe has that version.
    """
    new = load_artifact(made)
    place = probes_dir / new.probe.name / new.probe.version
    check_place(probes_dir, new.probe.name, new.probe.version, made)
    if place.exists():
        return Published(place, None)
    old = find_incumbent(probes_dir, new.probe.name)
    if old is None:
        verdict = compare_with_free_signals(new)
    else:
        check_same_model(old.model, old.probe, new.model, lambda: old.probe.norms)
        verdict = compare(new, old, read_gate(out))
    if not verdict.is_better:
        return Published(None, verdict)
    _copy(made, place, new, verdict)
    return Published(place, verdict)


def find_incumbent(probes_dir: Path, name: str) -> ProbeArtifact | None:
    """The probe that a new one of this name has to beat: the active one, else the newest; None: it is the first.

    Raises:
        StateError: What is active cannot be read.
        ArtifactError: It is damaged, or has changed since it was activated.
    """
    folders = {(one.parent.name, one.name): one for one in reversed(list(list_artifacts(probes_dir)))}
    state = read_state(probes_dir)
    if state is not None and state.active.name == name:
        active = folders.get((name, state.active.version))
        if active is not None:
            return _check(load_artifact(active), state.active)
    newest = next((one for one in list_artifacts(probes_dir) if one.parent.name == name), None)
    if newest is None:
        return None
    try:
        return load_artifact(newest)
    except ArtifactError as error:
        raise ArtifactError(
            f"{error}; it is the newest and would have to be beaten: mend it, or take it out"
        ) from error


def _check(artifact: ProbeArtifact, active: ProbeReference) -> ProbeArtifact:
    if artifact.sha256 != active.sha256:
        raise ArtifactError(f"{active} is active, and its files are not those that were activated: activate it anew")
    return artifact


def _copy(made: Path, place: Path, new: ProbeArtifact, verdict: Verdict) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
        copy = Path(scratch) / "artifact"
        copy.mkdir()
        for name in FILES:
            shutil.copyfile(made / name, copy / name)
        decided = {"published": time.strftime("%Y-%m-%d", time.gmtime()), **verdict.evidence}
        (copy / "publish.json").write_text(json.dumps(decided, indent=1) + "\n", encoding="utf-8")
        if load_artifact(copy).sha256 != new.sha256:
            raise ArtifactError(f"{made} changed while it was copied: publish again")
        for file in copy.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        sync_folder(copy)
        os.rename(copy, place)
    sync_folder(place.parent)
