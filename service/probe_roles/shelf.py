"""ProbeShelf: the probes in the folders as they were when last looked at, and why some of them may not be served."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from probes.artifact import ArtifactError, ProbeArtifact
from probes.fingerprint import ModelFingerprint, ModelMismatchError, check_same_model
from probes.registry import ProbeNotFoundError, list_artifacts, load_listed
from service.loading import one_line
from service.observe.metrics import Metrics

logger = logging.getLogger("hguard")


@dataclass(frozen=True)
class Shelved:
    """A folder that should hold a probe."""

    name: str
    version: str
    artifact: ProbeArtifact | None
    """None: it cannot be read."""
    reason: str | None
    """Why it was refused; None: nothing speaks against it yet."""


class ProbeShelf:
    """Finds probes by name; remembers refusals until the folders are looked at again."""

    def __init__(self, probes_dir: Path | None, metrics: Metrics) -> None:
        self.probes_dir, self.metrics = probes_dir, metrics
        self.shelved: tuple[Shelved, ...] = ()
        self._refused: dict[tuple[str, str], str] = {}

    def look(self, model: ModelFingerprint) -> None:
        """Read every folder; blocks. What was refused may be tried again, what is damaged is refused now.

        Args:
            model: Fingerprint of the loaded model; probes of others are listed as refused.
        """
        self._refused.clear()
        found: dict[tuple[str, str], Shelved] = {}
        for folder in list_artifacts(self.probes_dir):
            label = folder.parent.name, folder.name
            if label in found:
                continue  # the operator's comes before a shipped one of that name, here as in `find`
            try:
                artifact = load_listed(folder)
            except ArtifactError as error:
                found[label] = Shelved(*label, None, one_line(error))
                self.count(f"{label[0]}@{label[1]}", error)
                continue
            try:
                # The weights themselves are looked at before it is served, not here.
                check_same_model(artifact.model, artifact.probe, model, partial(getattr, artifact.probe, "norms"))
            except ModelMismatchError as error:
                found[label] = Shelved(*label, artifact, one_line(error))
            else:
                found[label] = Shelved(*label, artifact, None)
        self.shelved = tuple(found.values())

    def find(self, name: str, version: str | None = None) -> ProbeArtifact:
        """Read a probe from its folder as it is now; blocks.

        Args:
            name: Of the probe.
            version: None: the newest.

        Raises:
            ProbeNotFoundError: There is none.
            ArtifactError: It is damaged, or its folder has another probe's name.
        """
        for folder in list_artifacts(self.probes_dir):
            if folder.parent.name == name and version in (None, folder.name):
                break
        else:
            raise ProbeNotFoundError(f"no probe {name}@{version or 'any version'} in the folders of probes")
        try:
            artifact = load_listed(folder)
        except ArtifactError as error:
            self.refuse(name, folder.name, error)
            raise
        others = (one for one in self.shelved if (one.name, one.version) != (name, folder.name))
        self.shelved = (*others, Shelved(name, folder.name, artifact, None))
        return artifact

    def refuse(self, name: str, version: str, error: BaseException) -> None:
        """Count, log and remember that a probe was refused."""
        self._refused[name, version] = one_line(error)
        self.count(f"{name}@{version}", error)

    def accept(self, artifact: ProbeArtifact) -> None:
        """Forget why it was refused before."""
        self._refused.pop((artifact.probe.name, artifact.probe.version), None)

    def count(self, label: str, error: BaseException) -> None:
        """Count and log a refusal."""
        self.metrics.probe_loads.labels("refused").inc()
        logger.error("probe refused: %s: %s", label, one_line(error), exc_info=error)

    def entries(self) -> list[Shelved]:
        """What lies in the folders, with every refusal since, also of probes that are in none of them."""
        left = dict(self._refused)
        entries = [
            replace(one, reason=left.pop((one.name, one.version), one.reason))
            for one in sorted(self.shelved, key=lambda one: one.name)
        ]
        return entries + [Shelved(*label, None, reason) for label, reason in left.items()]
