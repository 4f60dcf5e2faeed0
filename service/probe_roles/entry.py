"""What is told of one probe, by `GET /probes` and by `hguard probes`. Loads no torch."""

from dataclasses import asdict
from typing import Literal

from probes.artifact import ProbeArtifact
from service.schemas.probes import BudgetEntry, ProbeEntry

State = Literal["active", "shadow", "canary", "available", "refused"]


def describe_probe(
    artifact: ProbeArtifact, state: State, reason: str | None = None, percent: float | None = None
) -> ProbeEntry:
    """The entry of a probe that could be read."""
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
