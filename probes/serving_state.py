"""Which probes a service serves, kept beside them so that a restart serves the same: <folder>/served.json.

Names probes and loads none. The trainer reads here which probe a new one has to beat.
"""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "served.json"


class StateError(ValueError):
    """The file is there and cannot be read."""


@dataclass(frozen=True)
class ProbeReference:
    """A probe by its files: the same name and version with other bytes is another probe."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class ServingState:
    """What was served when something was last switched."""

    configured: str
    """HGUARD_PROBE then; another value now means that the operator has decided anew."""
    active: ProbeReference
    history: tuple[ProbeReference, ...] = ()
    """Probes that were active before, the latest last."""
    shadow: ProbeReference | None = None
    canary: ProbeReference | None = None
    percent: float = 0.0
    """Share of the requests that the canary answers."""


def read_state(folder: Path) -> ServingState | None:
    """What a folder of probes remembers; None where nothing was ever switched.

    Raises:
        StateError: The file is damaged.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return ServingState(
            configured=str(found["configured"]),
            active=_reference(found["active"]),
            history=tuple(_reference(one) for one in found["history"]),
            shadow=found["shadow"] and _reference(found["shadow"]),
            canary=found["canary"] and _reference(found["canary"]),
            percent=float(found["percent"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise StateError(f"{path} cannot be read ({type(error).__name__}): mend it, or delete it") from error


def write_state(folder: Path, state: ServingState) -> None:
    """Write the file, and make its folder; after a crash it is the old one or the new one, whole.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=f".{FILE}-", encoding="utf-8", delete=False) as file:
        try:
            file.write(json.dumps(asdict(state), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, folder / FILE)
        except BaseException:
            os.unlink(file.name)
            raise
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder last through a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reference(found: Any) -> ProbeReference:
    return ProbeReference(str(found["name"]), str(found["version"]), str(found["sha256"]))
