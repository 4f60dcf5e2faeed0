"""ProbePlaces: what serves at this moment. Each change is made between two awaits, so no request sees half of one.

Loads and proves nothing new: `service.probe_roles.switch` does. Proves again what serves, and takes it out while it
fails.
"""

import hashlib
import logging
import time
from contextlib import suppress
from dataclasses import replace
from typing import get_args

from probes.artifact import ProbeArtifact
from service.loading import one_line
from service.observe.metrics import Metrics
from service.probe_roles.golden import check_golden, departure_of
from service.probe_roles.memory import Lineup
from service.probe_roles.served import ServedModel, probe_label
from service.probe_roles.slot import Slot
from service.schemas.role import Role

HISTORY = 10
"""Probes that can be rolled back to, one after the other."""

logger = logging.getLogger("hguard")


class ProbePlaces:
    """The active probe with its shadow, and the canary."""

    def __init__(self, metrics: Metrics, reasons: dict[str, str]) -> None:
        """Begin empty.

        Args:
            metrics: Where to count.
            reasons: Why the service is not ready; `probe` and `golden_trace` are kept here.
        """
        self.metrics, self.reasons = metrics, reasons
        self.active: Slot | None = None
        self.canary: Slot | None = None
        self.faults: dict[Role, str] = {}
        """Why a shadow is not scored, or a canary answers nobody: its golden trace has failed since."""
        self.history: tuple[ProbeArtifact, ...] = ()
        """Active before, the latest last."""

    def pick(self, request_id: str | None, asked: str) -> ServedModel:
        """What one request is answered with: the same for the same request id, as long as nothing is switched.

        Args:
            request_id: Decides whether it belongs to the canary's share; None: the active probe answers.
            asked: The probe that the request names, or `default`.
        """
        assert self.active is not None
        slot = self.active
        if self.canary is not None and "canary" not in self.faults:
            is_for_active, is_for_canary = (_is_named(asked, one) for one in (slot, self.canary))
            if is_for_canary and (not is_for_active or is_in_share(request_id, self.canary.percent)):
                slot = self.canary
        return replace(slot.served, shadow=None) if "shadow" in self.faults else slot.served

    def lineup(self) -> Lineup | None:
        """Which probe is in which role; None before one was proved."""
        if self.active is None:
            return None
        canary = self.canary
        return Lineup(
            self.active.served.artifact,
            self.history,
            self.active.served.shadow,
            canary.served.artifact if canary else None,
            canary.percent if canary else 0.0,
        )

    def in_role(self, role: Role) -> ProbeArtifact | None:
        """The probe that has a role."""
        if role == "canary":
            return self.canary.served.artifact if self.canary else None
        if self.active is None:
            return None
        return self.active.served.artifact if role == "active" else self.active.served.shadow

    def put_active(self, slot: Slot) -> None:
        """Let a proved probe, and its shadow, answer from now on."""
        before, self.active = self.active, slot
        self.faults.pop("shadow", None)
        if before is not None:
            before.held.close()
        if self.canary is not None and self.canary.served.artifact.sha256 == slot.served.artifact.sha256:
            self.end("canary")
        self.reasons.pop("probe", None)
        self._passed(slot.departure)
        self._show()

    def put_canary(self, slot: Slot) -> None:
        """Let a proved probe answer its share of the requests."""
        before, self.canary = self.canary, slot
        self.faults.pop("canary", None)
        if before is not None and before.held is not slot.held:
            before.held.close()
        self._show()

    def end(self, role: Role) -> None:
        """Empty the place of the shadow or the canary; heads of a shadow leave the engine at the next switch."""
        self.faults.pop(role, None)
        if role == "canary" and self.canary is not None:
            before, self.canary = self.canary, None
            before.held.close()
        if role == "shadow" and self.active is not None:
            self.active = replace(self.active, served=replace(self.active.served, shadow=None))
        self._show()

    async def prove(self, role: Role, timeout_seconds: float) -> None:
        """Score the golden trace of what has a role, beside requests; nothing to do where nothing has it.

        Raises:
            Exception: Whatever the engine does; or the scores are wrong or late.
        """
        slot, artifact = self.canary if role == "canary" else self.active, self.in_role(role)
        if slot is None or artifact is None:
            return
        served = slot.served
        first = len(served.probe.heads) if role == "shadow" else 0
        try:
            with served.engine.hold_heads(served.heads):
                departure = await check_golden(served.engine, artifact, served.heads, timeout_seconds, first_head=first)
        except Exception as error:
            self.metrics.golden_failures.labels(role).inc()
            logger.error("golden trace of %s %s", role, probe_label(artifact.probe), exc_info=error)
            if slot in (self.active, self.canary):  # else another probe has been proved meanwhile
                self._failed(role, error)
            raise
        if slot in (self.active, self.canary):
            self.faults.pop(role, None)
            if role == "active":
                self._passed(departure)

    async def prove_again(self, timeout_seconds: float) -> None:
        """The golden traces of everything that serves; one that fails is counted and rests."""
        for role in get_args(Role):
            with suppress(Exception):
                await self.prove(role, timeout_seconds)

    def close(self) -> None:
        """Let go of all heads."""
        for slot in filter(None, (self.active, self.canary)):
            slot.held.close()
        self.active = self.canary = None

    def _failed(self, role: Role, error: Exception) -> None:
        if role == "active":
            self.reasons["golden_trace"] = one_line(error)
            self.metrics.golden_ok.set(0)
            self.metrics.golden_error.set(departure_of(error))
        else:
            self.faults[role] = one_line(error)

    def _passed(self, departure: float) -> None:
        self.reasons.pop("golden_trace", None)
        self.metrics.golden_ok.set(1)
        self.metrics.golden_error.set(departure)
        self.metrics.golden_time.set(time.time())

    def _show(self) -> None:
        self.metrics.probe_info.clear()
        for role in get_args(Role):
            artifact = self.in_role(role)
            if artifact is not None:
                probe = artifact.probe
                self.metrics.probe_info.labels(role, probe.name, probe.version, artifact.sha256).set(1)


def is_in_share(request_id: str | None, percent: float) -> bool:
    """Whether a request belongs to a share of all; the same id always does or does not, and stays when it grows."""
    if request_id is None:
        return False
    place = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big") / 2**64
    return 100 * place < percent


def _is_named(asked: str, slot: Slot) -> bool:
    probe = slot.served.probe
    return asked in ("default", probe.name, probe_label(probe))
