"""The entries of GET /probes: what serves first, then what lies in the folders."""

from dataclasses import asdict
from typing import Literal, get_args

from probes.artifact import ProbeArtifact
from service.probe_places import ProbePlaces
from service.probe_shelf import ProbeShelf
from service.schemas.probes import BudgetEntry, ProbeEntry
from service.served import Role

State = Literal["active", "shadow", "canary", "available", "refused"]


def list_entries(places: ProbePlaces, shelf: ProbeShelf) -> list[ProbeEntry]:
    """Every probe once, by its files; one that can no longer be read from its folder may serve all the same."""
    entries, serving = [], set()
    for role in sorted(get_args(Role)):
        artifact = places.in_role(role)
        if artifact is not None:
            serving.add(artifact.sha256)
            percent = places.canary.percent if role == "canary" and places.canary else None
            entries.append(_entry(artifact, role, places.faults.get(role), percent))
    for one in sorted(shelf.entries(), key=lambda one: one.reason is not None):
        if one.artifact is None:
            entries.append(ProbeEntry(name=one.name, version=one.version, state="refused", reason=one.reason))
        elif one.artifact.sha256 not in serving:
            entries.append(_entry(one.artifact, "refused" if one.reason else "available", one.reason))
    return entries


def _entry(artifact: ProbeArtifact, state: State, reason: str | None, percent: float | None = None) -> ProbeEntry:
    probe = artifact.probe
    auroc, auroc_interval = _estimate(artifact.card.get("auroc"))
    error, error_interval = _estimate(artifact.card.get("ece"))
    return ProbeEntry(
        name=probe.name,
        version=probe.version,
        sha256=artifact.sha256,
        state=state,
        reason=reason,
        percent=percent,
        position=probe.position,
        locator=probe.locator,
        threshold=probe.threshold,
        budgets=[BudgetEntry(**asdict(budget)) for budget in probe.budgets],
        risk_parts=dict(probe.risk_model.weights),
        selected_neurons=len(probe.neurons),
        h_neurons=len(probe.h_neurons),
        per_mille=probe.per_mille,
        model=asdict(artifact.model),
        auroc=auroc,
        auroc_interval=auroc_interval,
        calibration_error=error,
        calibration_error_interval=error_interval,
        card=artifact.card,
    )


def _estimate(found: object) -> tuple[float | None, list[float] | None]:
    """A card's `[value, low, high]` or bare value; nothing of a card that holds something else."""
    values = found if isinstance(found, list) else [found]
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if not numbers or len(numbers) != len(values):
        return None, None
    return numbers[0], numbers[1:3] if len(numbers) == 3 else None
