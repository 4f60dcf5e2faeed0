"""ProbeSwitch: gives probes their roles. Each is proved beside those that serve before it takes a place.

Whatever fails leaves what serves serving, is counted and logged, and is shown by `GET /probes`.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, replace

from probes.artifact import ArtifactError, ProbeArtifact
from service.engines.base import Engine, HeadBank
from service.loading import one_line
from service.observe.metrics import Metrics
from service.probe_roles.memory import recall, remember
from service.probe_roles.places import HISTORY, ProbePlaces
from service.probe_roles.served import head_bank, probe_label
from service.probe_roles.shelf import ProbeShelf
from service.probe_roles.slot import ProbeRefusedError, Slot, fill_slot
from service.schemas.role import Role
from service.settings import Settings
from service.web.errors import ApiError

START_PATIENCE = 10
"""The golden trace may take so many times longer at the start, where an engine's first passes are slow."""

logger = logging.getLogger("hguard")


@dataclass(frozen=True)
class Switched:
    """What a switch did."""

    artifact: ProbeArtifact
    """The probe that has the role now; after the end of a shadow or a canary the one that had it."""
    is_kept: bool
    """A restart will serve the same."""


class ProbeSwitch:
    """Finds, proves and switches; one change at a time."""

    def __init__(self, settings: Settings, metrics: Metrics, reasons: dict[str, str]) -> None:
        """Begin with nothing served; `prepare`, then `start`.

        Args:
            settings: The operator's choices.
            metrics: Where to count.
            reasons: Why the service is not ready, see `ProbePlaces`.
        """
        self.settings, self.metrics = settings, metrics
        self.places = ProbePlaces(metrics, reasons)
        self.shelf = ProbeShelf(settings.probes_dir, metrics)
        self._changing = asyncio.Lock()

    def prepare(self, engine: Engine, configured: ProbeArtifact) -> HeadBank:
        """Find what is to be served; blocks.

        Args:
            engine: Loaded, not started.
            configured: The probe by HGUARD_PROBE.

        Returns:
            Heads to make room for: of the first of these probes that reads the residual stream.
        """
        self._engine, self._configured, self._model = engine, configured, engine.fingerprint()
        self.shelf.look(self._model)
        wanted = self._wanted = recall(self.settings, configured, self.shelf)
        probes = [artifact.probe for artifact in (wanted.active, wanted.shadow, wanted.canary) if artifact]
        return head_bank(next((probe for probe in probes if probe.residual), probes[0]))

    async def start(self) -> None:
        """Prove and serve what `prepare` found.

        Raises:
            ProbeRefusedError: No probe can be served.
        """
        async with self._changing:
            wanted, patience = self._wanted, START_PATIENCE * self.settings.canary_timeout_s
            self.places.history = wanted.history
            try:
                await self._put_active(wanted.active, patience)
            except ProbeRefusedError:
                if wanted.active.sha256 == self._configured.sha256:
                    raise
                await self._put_active(self._configured, patience)
            others: tuple[tuple[Role, ProbeArtifact | None], ...]
            others = ("shadow", wanted.shadow), ("canary", wanted.canary)
            for role, artifact in others:
                if artifact is not None:
                    try:
                        await self._put(artifact, role, wanted.percent)
                    except (ProbeRefusedError, ApiError) as refusal:
                        logger.error("not taken up again: %s %s: %s", role, probe_label(artifact.probe), refusal)

    async def activate(self, name: str, version: str | None, role: Role, percent: float = 0.0) -> Switched:
        """Read a probe from its folder, prove it, and give it a role.

        Args:
            name: Of the probe.
            version: None: the newest.
            role: Which.
            percent: Share of the requests that a canary answers.

        Raises:
            ProbeNotFoundError: There is none by that name.
            ProbeRefusedError: It is damaged, of another model, or scores wrongly; nothing has changed.
            ApiError: 409, it is active already; 503, nothing is served that it could stand beside.
        """
        self._check_model()
        async with self._changing:
            try:
                artifact = await asyncio.to_thread(self.shelf.find, name, version)
            except ArtifactError as error:
                raise ProbeRefusedError("probe", one_line(error)) from error
            await self._put(artifact, role, percent)
            return await self._done(artifact)

    async def rollback(self, name: str, role: Role) -> Switched:
        """Serve the probe that was active before this one, proved again; or end the shadow, or the canary.

        Raises:
            ApiError: 409, where the role is another probe's, or nothing was active before.
            ProbeRefusedError: The one before cannot be served any more; nothing has changed.
        """
        self._check_model()
        async with self._changing:
            artifact = self.places.in_role(role)
            if artifact is None or artifact.probe.name != name:
                raise ApiError(409, "not_served", f"no probe of that name is {role}: GET /probes says which one is")
            if role != "active":
                self.places.end(role)
                return await self._done(artifact)
            if not self.places.history:
                raise ApiError(
                    409, "nothing_before", "no probe was active before this one: activate one by its version"
                )
            *earlier, before = self.places.history
            await self._put_active(before, self.settings.canary_timeout_s)
            self.places.history = tuple(earlier)
            return await self._done(before)

    async def reload(self) -> None:
        """Look at the folders again; what is served stays.

        Raises:
            ApiError: 503, no model is loaded.
        """
        self._check_model()
        async with self._changing:
            await asyncio.to_thread(self.shelf.look, self._model)

    async def _put(self, artifact: ProbeArtifact, role: Role, percent: float) -> None:
        places, seconds = self.places, self.settings.canary_timeout_s
        active = places.in_role("active")
        if role == "active":
            await self._put_active(artifact, seconds)
            if active is not None and active.sha256 != artifact.sha256:
                places.history = (*places.history, active)[-HISTORY:]
        elif active is None:
            raise ApiError(503, "not_ready", "no probe is active that it could stand beside: activate one first")
        elif active.sha256 == artifact.sha256:
            raise ApiError(409, "already_active", f"this probe is the active one: it cannot be its own {role}")
        elif role == "shadow":
            await self._put_shadow(artifact, active, seconds)
        else:
            await self._put_canary(artifact, percent, seconds)

    async def _put_active(self, artifact: ProbeArtifact, timeout_seconds: float) -> None:
        shadow = self.places.in_role("shadow")
        if shadow is None or shadow.sha256 == artifact.sha256:
            slot = await self._fill(artifact, timeout_seconds)
        else:
            try:
                slot = await fill_slot(
                    self._engine, self.settings, artifact, shadow=shadow, timeout_seconds=timeout_seconds
                )
            except ProbeRefusedError as refusal:
                # The shadow ends rather than keep a probe from serving, or a rollback from ending.
                slot = await self._fill(artifact, timeout_seconds)
                self._refuse(shadow, refusal)
        self.places.put_active(slot)
        self._loaded(artifact, "active")

    async def _put_shadow(self, shadow: ProbeArtifact, active: ProbeArtifact, timeout_seconds: float) -> None:
        try:
            slot = await fill_slot(self._engine, self.settings, active, shadow=shadow, timeout_seconds=timeout_seconds)
        except ProbeRefusedError as refusal:
            self._refuse(shadow, refusal)
            raise
        self.places.put_active(slot)
        self._loaded(shadow, "shadow")

    async def _put_canary(self, artifact: ProbeArtifact, percent: float, timeout_seconds: float) -> None:
        slot = self.places.canary
        if slot is None or slot.served.artifact.sha256 != artifact.sha256:  # else it was proved when it began
            slot = await self._fill(artifact, timeout_seconds, role="canary")
        self.places.put_canary(replace(slot, percent=percent))
        self._loaded(artifact, "canary")

    async def _fill(self, artifact: ProbeArtifact, timeout_seconds: float, *, role: Role = "active") -> Slot:
        try:
            return await fill_slot(self._engine, self.settings, artifact, role=role, timeout_seconds=timeout_seconds)
        except ProbeRefusedError as refusal:
            self._refuse(artifact, refusal)
            raise

    def _refuse(self, artifact: ProbeArtifact, refusal: ProbeRefusedError) -> None:
        self.shelf.refuse(artifact.probe.name, artifact.probe.version, refusal)

    def _check_model(self) -> None:
        if "model" in self.places.reasons:
            raise ApiError(503, "not_ready", f"not ready: model: {self.places.reasons['model']}")

    def _loaded(self, artifact: ProbeArtifact, role: Role) -> None:
        engine = self._engine
        self.shelf.accept(artifact)
        self.metrics.probe_loads.labels("ok").inc()
        self.metrics.probe_load_time.set(time.time())
        logger.info("%s on %s: probe %s is %s", engine.model_name, engine.device, probe_label(artifact.probe), role)

    async def _done(self, artifact: ProbeArtifact) -> Switched:
        lineup = self.places.lineup()
        assert lineup is not None
        return Switched(artifact, await remember(self.settings, lineup))
