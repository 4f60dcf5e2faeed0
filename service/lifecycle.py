"""Lifecycle: from settings to a served model that has proved that it scores right, and back down.

What is missing is kept as a reason: a service that is not ready still says so. Which probes serve is
`service.probe_roles.switch`'s business.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from probes.artifact import ProbeArtifact
from service.admission.auth import Limits
from service.engines.base import Engine
from service.loading import StartupError, load_engine, load_probe, one_line
from service.observe.metrics import Metrics
from service.probe_roles.golden import departure_of
from service.probe_roles.served import ServedModel
from service.probe_roles.slot import ProbeRefusedError
from service.probe_roles.switch import ProbeSwitch
from service.settings import Settings
from service.version import VERSION
from service.web.errors import ApiError

logger = logging.getLogger("hguard")


@dataclass(frozen=True)
class Parts:
    """What was loaded, not yet proved."""

    engine: Engine
    artifact: ProbeArtifact


class Lifecycle:
    """Loads, starts, watches and closes."""

    def __init__(self, settings: Settings, metrics: Metrics, parts: Parts | None = None) -> None:
        """Begin with nothing ready.

        Args:
            settings: The operator's choices.
            metrics: Where to count.
            parts: Engine and probe that are loaded already; None: `start` loads them.
        """
        self.settings, self.metrics, self.parts = settings, metrics, parts
        self.reasons: dict[str, str] = {
            "model": "is not loaded",
            "probe": "is not loaded",
            "golden_trace": "has not passed",
        }
        """Why requests are refused; empty once ready."""
        self.failure: StartupError | None = None
        """Why nothing can ever be served by these settings; not logged: a server ends with it as its last words."""
        self.probes = ProbeSwitch(settings, metrics, self.reasons)
        self._starting: asyncio.Task[None] | None = None
        self._canary: asyncio.Task[None] | None = None

    def begin(self) -> asyncio.Task[None]:
        """`start` as a task, which `close` ends; routes answer meanwhile, most of them 503 with the reasons."""
        self._starting = asyncio.create_task(self.start())
        return self._starting

    @property
    def is_starting(self) -> bool:
        """Whether what `begin` began goes on."""
        return self._starting is not None and not self._starting.done()

    async def start(self) -> None:
        """Load, start the engine and prove the probe on it; what fails becomes a reason."""
        self.metrics.starting.set(1)
        self.reasons["model"] = "is being loaded"
        try:
            if self.parts is None:
                self.parts = await asyncio.to_thread(self._load)
            engine = self.parts.engine
            expected = await asyncio.to_thread(self.probes.prepare, engine, self.parts.artifact)
            await engine.start(expected)
            del self.reasons["model"]
            await self._prove_first(engine)
        except StartupError as error:
            self.failure, self.reasons["model"] = error, one_line(error)
        except Exception as error:
            logger.error("not ready: model", exc_info=error)
            self.reasons["model"] = one_line(error)
        finally:
            self.metrics.starting.set(0)

    async def _prove_first(self, engine: Engine) -> None:
        self.metrics.build_info.labels(VERSION, self.engine_name, engine.model_name, engine.dtype).set(1)
        if self.settings.canary_s:
            self._canary = asyncio.create_task(self._prove_again_and_again())
        try:
            await self.probes.start()
        except ProbeRefusedError as refusal:
            if refusal.stage == "golden_trace":
                del self.reasons["probe"]
                self.metrics.golden_error.set(departure_of(refusal.__cause__))
            logger.error("not ready: %s", refusal.stage, exc_info=refusal)
            self.reasons[refusal.stage] = one_line(refusal)

    def _load(self) -> Parts:
        logger.info("loading %s for the engine %s", self.settings.model, self.settings.engine)
        engine = load_engine(self.settings)
        return Parts(engine, load_probe(self.settings, engine))

    @property
    def active(self) -> ProbeArtifact | None:
        """The active probe; None before."""
        return self.probes.places.in_role("active")

    @property
    def engine_name(self) -> str:
        """The back end, for /version; the chosen one until it is loaded."""
        return self.parts.engine.kind if self.parts is not None else self.settings.engine

    async def close(self) -> None:
        """Stop the engine."""
        for task in (self._starting, self._canary):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self.probes.places.close()
        if self.parts is not None:
            await self.parts.engine.close()

    @contextmanager
    def serving(self, limits: Limits, request_id: str | None = None, asked: str = "default") -> Iterator[ServedModel]:
        """What one request is answered with; its heads stay in the engine until the request has ended.

        Args:
            limits: Of the caller's key.
            request_id: Decides whether a canary answers; None: none does.
            asked: The probe that the request names.

        Raises:
            ApiError: 503 `not_ready`.
        """
        if self.reasons or self.probes.places.active is None:
            raise ApiError(503, "not_ready", "not ready: " + "; ".join(self.describe()))
        served = self.probes.places.pick(request_id, asked)
        with served.engine.hold_heads(served.heads):
            yield replace(served, limits=limits)

    async def prove(self, timeout_seconds: float) -> None:
        """Score the golden trace of the active probe again.

        Raises:
            Exception: Whatever the engine does; or the scores are wrong or late.
        """
        await self.probes.places.prove("active", timeout_seconds)

    def describe(self) -> list[str]:
        """The reasons, one line each."""
        return [f"{name}: {reason}" for name, reason in self.reasons.items()]

    async def _prove_again_and_again(self) -> None:
        """The golden traces: an engine that begins to score wrongly is not ready, until it is right again."""
        while True:
            await asyncio.sleep(self.settings.canary_s)
            await self.probes.places.prove_again(self.settings.canary_timeout_s)
