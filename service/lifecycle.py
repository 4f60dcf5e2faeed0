"""Lifecycle: from settings to a served model that has proved that it scores right, and back down.

What is missing is kept as a reason: a service that is not ready still says so. Another probe is loaded and proved
beside the served one before it takes its place.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from probes.artifact import ArtifactError, ProbeArtifact
from probes.registry import find_probe
from service.auth import Limits
from service.engines.base import Engine
from service.errors import ApiError
from service.golden import check_golden, departure_of
from service.loading import check_probe, load_engine, load_probe, one_line
from service.metrics import Metrics
from service.served import ServedModel, head_bank, probe_label
from service.settings import Settings
from service.version import VERSION

START_PATIENCE = 10
"""The golden trace may take so many times longer at the start, where an engine's first passes are slow."""

logger = logging.getLogger("hguard")

Stage = Literal["probe", "golden_trace"]


class ProbeRefusedError(RuntimeError):
    """A probe cannot be served; one line says why."""

    def __init__(self, stage: Stage, message: str) -> None:
        super().__init__(message)
        self.stage = stage


@dataclass(frozen=True)
class Parts:
    """What was loaded, not yet proved."""

    engine: Engine
    artifact: ProbeArtifact


class Lifecycle:
    """Loads, checks, switches and closes."""

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
        self._held = ExitStack()
        """Keeps the served heads in the engine."""
        self._activating = asyncio.Lock()
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
            assert self.parts is not None
            await self.parts.engine.start(head_bank(self.parts.artifact.probe))
        except Exception as error:
            logger.error("not ready: model", exc_info=error)
            self.reasons["model"] = one_line(error)
            return
        del self.reasons["model"]
        engine = self.parts.engine
        self.metrics.build_info.labels(VERSION, self.engine_name, engine.model_name, engine.dtype).set(1)
        if self.settings.canary_s:
            self._canary = asyncio.create_task(self._prove_again_and_again())
        try:
            async with self._activating:
                await self._serve(self.parts.artifact, START_PATIENCE * self.settings.canary_timeout_s)
        except ProbeRefusedError as refusal:
            self.metrics.probe_loads.labels("refused").inc()
            if refusal.stage == "golden_trace":
                del self.reasons["probe"]
                self.metrics.golden_error.set(departure_of(refusal.__cause__))
            logger.error("not ready: %s", refusal.stage, exc_info=refusal)
            self.reasons[refusal.stage] = one_line(refusal)

    async def activate(self, name: str, version: str) -> ProbeArtifact:
        """Serve another probe of the folders of probes; the old one serves until the new one has been proved.

        Returns:
            The probe that is served now.

        Raises:
            ApiError: 503, where no model is loaded.
            ProbeNotFoundError: There is none by that name.
            ProbeRefusedError: It is damaged, of another model, or scores wrongly; the old one goes on serving.
        """
        if self.parts is None or "model" in self.reasons:
            raise ApiError(503, "not_ready", "not ready: " + "; ".join(self.describe()))
        async with self._activating:
            fingerprint, folder = self.parts.engine.fingerprint(), self.settings.probes_dir
            try:
                artifact = await asyncio.to_thread(find_probe, f"{name}@{version}", fingerprint, folder)
                await self._serve(artifact, self.settings.canary_timeout_s)
            except (ArtifactError, ProbeRefusedError) as error:
                self.metrics.probe_loads.labels("refused").inc()
                logger.error("not activated: %s@%s: %s", name, version, one_line(error), exc_info=error)
                raise ProbeRefusedError("probe", one_line(error)) from error
        return artifact

    @property
    def active(self) -> ProbeArtifact | None:
        """The probe that is served; None before."""
        return None if self._served is None else self._served.artifact

    @property
    def engine_name(self) -> str:
        """The back end, for /version; the chosen one until it is loaded."""
        return self.parts.engine.kind if self.parts is not None else self.settings.engine

    async def close(self) -> None:
        """Stop the engine."""
        self._served = None
        if self._canary is not None:
            self._canary.cancel()
        self._held.close()
        if self.parts is not None:
            await self.parts.engine.close()

    @contextmanager
    def serving(self, limits: Limits) -> Iterator[ServedModel]:
        """What one request is answered with; its heads stay in the engine until the request has ended.

        Args:
            limits: Of the caller's key.

        Raises:
            ApiError: 503 `not_ready`.
        """
        if self._served is None or self.reasons:
            raise ApiError(503, "not_ready", "not ready: " + "; ".join(self.describe()))
        served = self._served
        with served.engine.hold_heads(served.heads):
            yield replace(served, limits=limits)

    async def prove(self, timeout_seconds: float) -> None:
        """Score the golden trace of the served probe again.

        Raises:
            Exception: Whatever the engine does; or the scores are wrong or late.
        """
        served = self._served
        if served is None:
            return
        with served.engine.hold_heads(served.heads):
            departure = await check_golden(served.engine, served.artifact, served.heads, timeout_seconds)
        if served is self._served:
            self._passed(departure)

    def describe(self) -> list[str]:
        """The reasons, one line each."""
        return [f"{name}: {reason}" for name, reason in self.reasons.items()]

    async def _serve(self, artifact: ProbeArtifact, timeout_seconds: float) -> None:
        """Load and prove a probe, then serve it.

        Raises:
            ProbeRefusedError: What was served before is served on.
        """
        assert self.parts is not None
        engine = self.parts.engine
        stage: Stage = "probe"
        with ExitStack() as held:
            try:
                await asyncio.to_thread(check_probe, engine, artifact)
                heads = await engine.load_heads(head_bank(artifact.probe), is_default=False)
                held.enter_context(engine.hold_heads(heads))
                stage = "golden_trace"
                departure = await check_golden(engine, artifact, heads, timeout_seconds)
            except Exception as error:
                raise ProbeRefusedError(stage, one_line(error)) from error
            before, self._held = self._held, held.pop_all()
        # No request comes in between these: there is no await.
        self._served = ServedModel(
            engine,
            artifact,
            heads,
            suppress_alpha=self.settings.suppress_alpha,
            on_error=self.settings.on_error,
            abstention=self.settings.abstention,
            hold_tokens=self.settings.hold_tokens,
            score_timeout_seconds=self.settings.score_timeout_s,
        )
        before.close()
        self.reasons.pop("probe", None)
        self._passed(departure)
        self.metrics.probe_loads.labels("ok").inc()
        self.metrics.probe_load_time.set(time.time())
        self.metrics.probe_info.clear()
        self.metrics.probe_info.labels(artifact.probe.name, artifact.probe.version, artifact.sha256).set(1)
        logger.info("ready: %s on %s, probe %s", engine.model_name, engine.device, probe_label(artifact.probe))

    async def _prove_again_and_again(self) -> None:
        """The canary: an engine that begins to score wrongly stops being ready, and is ready again once it is right."""
        while True:
            await asyncio.sleep(self.settings.canary_s)
            served = self._served
            if served is None:
                continue
            try:
                await self.prove(self.settings.canary_timeout_s)
            except Exception as error:
                logger.error("golden trace of %s", probe_label(served.probe), exc_info=error)
                if served is self._served:  # else another probe has been proved meanwhile
                    self.reasons["golden_trace"] = one_line(error)
                    self.metrics.golden_ok.set(0)
                    self.metrics.golden_error.set(departure_of(error))

    def _passed(self, departure: float) -> None:
        self.reasons.pop("golden_trace", None)
        self.metrics.golden_ok.set(1)
        self.metrics.golden_error.set(departure)
        self.metrics.golden_time.set(time.time())
