"""What a restart serves: the probes that were served when something was last switched, found again on disk."""

import asyncio
import logging
from dataclasses import dataclass

from probes.artifact import ArtifactError, ProbeArtifact
from probes.registry import ProbeNotFoundError
from probes.serving_state import ProbeReference, ServingState, StateError, read_state, write_state
from service.loading import one_line
from service.probe_roles.shelf import ProbeShelf
from service.settings import Settings

logger = logging.getLogger("hguard")


@dataclass(frozen=True)
class Lineup:
    """Which probe is in which role."""

    active: ProbeArtifact
    history: tuple[ProbeArtifact, ...] = ()
    """Active before, the latest last."""
    shadow: ProbeArtifact | None = None
    canary: ProbeArtifact | None = None
    percent: float = 0.0
    """Of the canary."""


def recall(settings: Settings, configured: ProbeArtifact, shelf: ProbeShelf) -> Lineup:
    """The last lineup; blocks. A probe that is no longer there or has other bytes is refused and left out.

    HGUARD_PROBE decides where nothing was switched yet, where it has another value than then, and where the active
    probe cannot be had.
    """
    try:
        state = read_state(shelf.probes_dir) if shelf.probes_dir else None
    except StateError as error:
        shelf.count("what was served before", error)
        return Lineup(configured)
    if state is None or state.configured != settings.probe:
        if state is not None:
            logger.warning("HGUARD_PROBE has changed: %s is served, not %s", settings.probe, state.active)
        return Lineup(configured)

    def find(reference: ProbeReference | None) -> ProbeArtifact | None:
        if reference is None:
            return None
        if reference.sha256 == configured.sha256:
            return configured
        try:
            artifact = shelf.find(reference.name, reference.version)
        except ArtifactError:  # the shelf has noted it
            return None
        except ProbeNotFoundError as error:
            shelf.refuse(reference.name, reference.version, error)
            return None
        if artifact.sha256 != reference.sha256:
            changed = ArtifactError("its files are not those that were served before the restart: activate it anew")
            shelf.refuse(reference.name, reference.version, changed)
            return None
        return artifact

    return Lineup(
        find(state.active) or configured,
        tuple(filter(None, map(find, state.history))),
        find(state.shadow),
        find(state.canary),
        state.percent,
    )


async def remember(settings: Settings, lineup: Lineup) -> bool:
    """Keep a lineup for the next start.

    Returns:
        Whether it was kept: not without HGUARD_PROBES_DIR, nor where that folder cannot be written.
    """
    folder = settings.probes_dir
    if folder is None:
        return False
    state = ServingState(
        configured=settings.probe,
        active=_refer(lineup.active),
        history=tuple(map(_refer, lineup.history)),
        shadow=_refer(lineup.shadow) if lineup.shadow else None,
        canary=_refer(lineup.canary) if lineup.canary else None,
        percent=lineup.percent,
    )
    try:
        await asyncio.to_thread(write_state, folder, state)
    except OSError as error:
        logger.error("a restart will not serve what is served now: %s", one_line(error), exc_info=error)
        return False
    return True


def _refer(artifact: ProbeArtifact) -> ProbeReference:
    return ProbeReference(artifact.probe.name, artifact.probe.version, artifact.sha256)
