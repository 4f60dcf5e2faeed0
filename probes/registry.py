"""Where probe artifacts lie: <folder>/<name>/<version>/, shipped ones in probes/library and the operator's beside them.

Finds and lists; switching between them is the service's business.
"""

from collections.abc import Iterator
from pathlib import Path

from probes.artifact import ArtifactError, ProbeArtifact, load_artifact
from probes.fingerprint import ModelFingerprint

LIBRARY = Path(__file__).parent / "library"


class ProbeNotFoundError(LookupError):
    """No artifact answers to the reference."""


def list_artifacts(probes_dir: Path | None = None) -> Iterator[Path]:
    """Folders of all artifacts, the operator's before the shipped ones, newest version first within a name."""
    for base in filter(None, (probes_dir, LIBRARY)):
        for name in sorted(path for path in base.glob("*") if path.is_dir()):
            yield from sorted(
                (v for v in name.glob("*") if (v / "probe.json").exists()), key=_version_key, reverse=True
            )


def load_listed(folder: Path) -> ProbeArtifact:
    """Read an artifact that lies where its name and version say.

    Raises:
        ArtifactError: It is damaged, or its folder has another probe's name.
    """
    artifact = load_artifact(folder)
    if (artifact.probe.name, artifact.probe.version) != (folder.parent.name, folder.name):
        raise ArtifactError(f"{folder} holds {artifact.probe.name}@{artifact.probe.version}: rename the folder")
    return artifact


def find_probe(reference: str, model: ModelFingerprint, probes_dir: Path | None = None) -> ProbeArtifact:
    """Load the artifact that a reference names.

    Args:
        reference: A folder; `name` or `name@version`; or `default`: the first one that was trained on this model.
        model: Fingerprint of the loaded model.
        probes_dir: The operator's artifacts, looked at before the shipped ones.

    Raises:
        ProbeNotFoundError: Nothing answers to the reference; the message lists what there is.
        ArtifactError: What answers is damaged.
    """
    if (Path(reference) / "probe.json").exists():
        return load_artifact(Path(reference))
    found = list(list_artifacts(probes_dir))
    if reference == "default":
        for folder in found:
            try:
                artifact = load_artifact(folder)
            except ArtifactError:
                continue  # a damaged artifact of another model must not keep this one from being served
            if _is_same_model(artifact.model, model):
                return artifact
        raise ProbeNotFoundError(
            f"no probe for this {model.architecture} (layer widths {model.widths[:1]}...) among {_names(found)}: train "
            "one with offline/train_probe.py and name it in HGUARD_PROBE"
        )
    name, _, version = reference.partition("@")
    for folder in found:
        if folder.parent.name == name and version in ("", folder.name):
            return load_artifact(folder)
    raise ProbeNotFoundError(f"no probe {reference!r}: there are {_names(found)}; a folder with probe.json works too")


def _is_same_model(a: ModelFingerprint, b: ModelFingerprint) -> bool:
    return (a.architecture, a.widths, a.vocabulary_size, a.tokenizer_sha256) == (
        b.architecture,
        b.widths,
        b.vocabulary_size,
        b.tokenizer_sha256,
    )


def _names(folders: list[Path]) -> str:
    return ", ".join(f"{folder.parent.name}@{folder.name}" for folder in folders) or "none"


def _version_key(folder: Path) -> tuple[tuple[int, str], ...]:
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in folder.name.split("."))
