"""GET /livez, /readyz, /version, /probes, /metrics and /: what runs here and whether it can be used."""

import asyncio
import logging
import platform
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from probes.artifact import ArtifactError, ProbeArtifact, load_artifact
from probes.registry import list_artifacts
from service.routes.dependencies import CurrentDrain, CurrentLifecycle, CurrentMetrics, CurrentModel
from service.routes.responses import NOT_READY
from service.schemas.status import BudgetEntry, Index, Live, ProbeEntry, ProbeList, Ready, Version
from service.version import VERSION

router = APIRouter()
logger = logging.getLogger("hguard")


@router.get("/livez")
async def livez() -> Live:
    """The process answers."""
    return Live()


@router.get("/readyz", responses={503: {"model": Ready, "description": "not ready; says why"}})
async def readyz(lifecycle: CurrentLifecycle, drain: CurrentDrain, response: Response) -> Ready:
    """Model and probe are loaded, the golden trace has passed, tokens come, and the server does not shut down."""
    reasons = lifecycle.describe()
    response.status_code = 503 if reasons or drain.is_draining else 200
    if drain.is_draining:
        return Ready(status="draining", reasons=["draining: the server shuts down", *reasons])
    return Ready(status="not_ready" if reasons else "ready", reasons=reasons)


@router.get("/version")
async def show_version(lifecycle: CurrentLifecycle) -> Version:
    """What runs, ready or not."""
    engine = lifecycle.parts.engine if lifecycle.parts else None
    return Version(
        version=VERSION,
        engine=lifecycle.engine_name,
        model=engine.model_name if engine else lifecycle.settings.model,
        dtype=engine.dtype if engine else None,
        device=engine.device if engine else None,
        python=platform.python_version(),
        torch=_installed("torch"),
        transformers=_installed("transformers"),
    )


@router.get("/probes", responses=NOT_READY)
async def list_probes(served: CurrentModel, lifecycle: CurrentLifecycle) -> ProbeList:
    """The served probe, then the others that lie in the folders of probes, with what evaluation found."""
    others = await asyncio.to_thread(_read_others, served.artifact, lifecycle.settings.probes_dir)
    entries = [_entry(served.artifact, "active"), *(_entry(artifact, "available") for artifact in others)]
    return ProbeList(probes=entries)


@router.get("/metrics", response_class=Response)
async def show_metrics(request: Request, metrics: CurrentMetrics) -> Response:
    """Prometheus text."""
    metrics.tasks.set(len(asyncio.all_tasks()))
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(metrics.registry), headers={"content-type": content_type})


@router.get("/")
async def index() -> Index:
    """Where to go."""
    return Index()


@cache
def _installed(package: str) -> str:
    return version(package)


def _entry(artifact: ProbeArtifact, state: Literal["active", "available"]) -> ProbeEntry:
    probe = artifact.probe
    auroc, auroc_interval = _estimate(artifact.card.get("auroc"))
    error, error_interval = _estimate(artifact.card.get("ece"))
    return ProbeEntry(
        name=probe.name,
        version=probe.version,
        sha256=artifact.sha256,
        state=state,
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


def _read_others(active: ProbeArtifact, probes_dir: Path | None) -> list[ProbeArtifact]:
    others = []
    for folder in list_artifacts(probes_dir):
        try:
            artifact = load_artifact(folder)
        except ArtifactError as error:
            logger.warning("not listed: %s", error)
            continue
        if artifact.sha256 != active.sha256:
            others.append(artifact)
    return others
