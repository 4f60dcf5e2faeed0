"""Slot: a probe that was loaded beside the others and has proved that it scores right, with its heads held."""

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from probes.artifact import ProbeArtifact
from service.engines.base import Engine
from service.loading import check_probe, one_line
from service.probe_roles.golden import check_golden
from service.probe_roles.served import ServedModel, head_bank
from service.schemas.role import Role
from service.settings import Settings

Stage = Literal["probe", "golden_trace"]


class ProbeRefusedError(RuntimeError):
    """A probe cannot be served; one line says why."""

    def __init__(self, stage: Stage, message: str) -> None:
        super().__init__(message)
        self.stage = stage


@dataclass(frozen=True, eq=False)
class Slot:
    """What requests are answered with from one moment to the next."""

    served: ServedModel
    held: ExitStack
    """Keeps the heads in the engine; to be closed once another slot has taken this one's place."""
    departure: float
    """Of the probe's golden trace, see `service.probe_roles.golden`."""
    percent: float = 100.0
    """Share of the requests that a canary answers."""


async def fill_slot(
    engine: Engine,
    settings: Settings,
    artifact: ProbeArtifact,
    *,
    role: Role = "active",
    shadow: ProbeArtifact | None = None,
    timeout_seconds: float,
) -> Slot:
    """Load a probe, and its shadow on the same passes, and prove both; changes nothing that is served.

    Raises:
        ProbeRefusedError: It is of another model, does not fit the engine, or scores wrongly.
    """
    stage: Stage = "probe"
    with ExitStack() as held:
        try:
            await asyncio.to_thread(check_probe, engine, artifact)
            if shadow is not None:
                await asyncio.to_thread(check_probe, engine, shadow)
            bank = head_bank(artifact.probe, shadow.probe if shadow else None)
            heads = await engine.load_heads(bank, is_default=False)
            held.enter_context(engine.hold_heads(heads))
            stage = "golden_trace"
            departure = await check_golden(engine, artifact, heads, timeout_seconds)
            if shadow is not None:
                first = len(artifact.probe.heads)
                await check_golden(engine, shadow, heads, timeout_seconds, first_head=first)
        except Exception as error:
            raise ProbeRefusedError(stage, one_line(error)) from error
        served = ServedModel(
            engine,
            artifact,
            heads,
            suppress_alpha=settings.suppress_alpha,
            on_error=settings.on_error,
            abstention=settings.abstention,
            hold_tokens=settings.hold_tokens,
            score_timeout_seconds=settings.score_timeout_s,
            role=role,
            shadow=shadow,
        )
        return Slot(served, held.pop_all(), departure)
