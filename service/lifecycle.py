"""Lifecycle: from settings to a served model that has proved that it scores right, and back down.

What is missing is kept as a reason: a service that is not ready still says so.
"""

import asyncio
import logging
import time
from dataclasses import dataclass

from probes.artifact import ProbeArtifact
from service.engines.base import Engine, EngineError
from service.errors import ApiError
from service.golden import GoldenTraceError, check_golden
from service.loading import StartupError, check_probe, load_engine, load_probe, one_line
from service.metrics import Metrics
from service.served import ServedModel, head_bank, probe_label
from service.settings import Settings
from service.version import VERSION

logger = logging.getLogger("hguard")


@dataclass(frozen=True)
class Parts:
    """What was loaded, not yet proved."""

    engine: Engine
    artifact: ProbeArtifact


class Lifecycle:
    """Loads, checks and closes."""

    def __init__(self, settings: Settings, metrics: Metrics, parts: Parts | None = None) -> None:
        """Begin with nothing ready.

        Args:
            settings: The operator's choices.
            metrics: Where to count.
            parts: Engine and probe that are loaded already; None: `prepare` loads them.
        """
        self.settings, self.metrics, self.parts = settings, metrics, parts
        self._served: ServedModel | None = None
        self.reasons: dict[str, str] = {
            "model": "is not loaded",
            "probe": "is not loaded",
            "golden_trace": "has not passed",
        }
        """Why requests are refused; empty once ready."""
        self._canary: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        """Load model and probe from disk; blocks.

        Raises:
            StartupError: Nothing can be loaded by these settings.
        """
        if self.parts is None:
            engine = load_engine(self.settings)
            self.parts = Parts(engine, load_probe(self.settings, engine))

    async def start(self) -> None:
        """Prepare, start the engine and prove the probe on it; what fails becomes a reason."""
        try:
            await asyncio.to_thread(self.prepare)
        except StartupError as error:
            self._refuse("model", str(error))
            return
        assert self.parts is not None
        engine, artifact = self.parts.engine, self.parts.artifact
        try:
            await engine.start()
        except EngineError as error:
            self._refuse("model", one_line(error))
            return
        del self.reasons["model"]
        self.metrics.build_info.labels(VERSION, self.engine_name, engine.model_name, engine.dtype).set(1)
        try:
            check_probe(engine, artifact)
            await engine.load_heads(head_bank(artifact.probe))
        except (EngineError, ValueError) as error:  # another model's probe; ModelMismatchError is a ValueError
            self._refuse("probe", one_line(error))
            return
        del self.reasons["probe"]
        if not await self._prove():
            return
        self.metrics.probe_loads.labels("ok").inc()
        self.metrics.probe_load_time.set(time.time())
        self.metrics.probe_info.labels(artifact.probe.name, artifact.probe.version, artifact.sha256).set(1)
        self._served = ServedModel(
            engine,
            artifact,
            suppress_alpha=self.settings.suppress_alpha,
            on_error=self.settings.on_error,
            abstention=self.settings.abstention,
        )
        if self.settings.canary_s:
            self._canary = asyncio.create_task(self._prove_again_and_again())
        logger.info("ready: %s on %s, probe %s", engine.model_name, engine.device, probe_label(artifact.probe))

    @property
    def engine_name(self) -> str:
        """The back end, for /version; the chosen one until it is loaded."""
        return self.parts.engine.kind if self.parts is not None else self.settings.engine

    async def close(self) -> None:
        """Stop the engine."""
        self._served = None
        if self._canary is not None:
            self._canary.cancel()
        if self.parts is not None:
            await self.parts.engine.close()

    @property
    def served(self) -> ServedModel:
        """What requests are answered with.

        Raises:
            ApiError: 503 `not_ready`.
        """
        if self._served is None or self.reasons:
            raise ApiError(503, "not_ready", "not ready: " + "; ".join(self.describe()))
        return self._served

    def describe(self) -> list[str]:
        """The reasons, one line each."""
        return [f"{name}: {reason}" for name, reason in self.reasons.items()]

    async def _prove(self) -> bool:
        """Run the golden trace; what it finds decides whether requests are answered."""
        assert self.parts is not None
        try:
            departure = await check_golden(self.parts.engine, self.parts.artifact)
        except (GoldenTraceError, EngineError) as failure:
            self.metrics.golden_ok.set(0)
            self._refuse("golden_trace", one_line(failure))
            return False
        self.reasons.pop("golden_trace", None)
        self.metrics.golden_ok.set(1)
        self.metrics.golden_error.set(departure)
        return True

    async def _prove_again_and_again(self) -> None:
        """The canary: an engine that begins to score wrongly stops being ready, and is ready again once it is right."""
        while True:
            await asyncio.sleep(self.settings.canary_s)
            await self._prove()

    def _refuse(self, name: str, reason: str) -> None:
        self.reasons[name] = reason
        if name != "model":
            self.metrics.probe_loads.labels("refused").inc()
        logger.error("not ready: %s: %s", name, reason)
