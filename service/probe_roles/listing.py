"""The entries of GET /probes: what serves first, then what lies in the folders."""

from typing import get_args

from service.probe_roles.entry import describe_probe
from service.probe_roles.places import ProbePlaces
from service.probe_roles.shelf import ProbeShelf
from service.schemas.probes import ProbeEntry
from service.schemas.role import Role


def list_entries(places: ProbePlaces, shelf: ProbeShelf) -> list[ProbeEntry]:
    """Every probe once, by its files; one that can no longer be read from its folder may serve all the same."""
    entries, serving = [], set()
    for role in sorted(get_args(Role)):
        artifact = places.in_role(role)
        if artifact is not None:
            serving.add(artifact.sha256)
            percent = places.canary.percent if role == "canary" and places.canary else None
            entries.append(describe_probe(artifact, role, places.faults.get(role), percent))
    for one in sorted(shelf.entries(), key=lambda one: one.reason is not None):
        if one.artifact is None:
            entries.append(ProbeEntry(name=one.name, version=one.version, state="refused", reason=one.reason))
        elif one.artifact.sha256 not in serving:
            entries.append(describe_probe(one.artifact, "refused" if one.reason else "available", one.reason))
    return entries
