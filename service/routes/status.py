"""GET /livez, /readyz, /version and /metrics: what runs here and whether it can be used."""

import asyncio
import platform
from functools import cache
from importlib.metadata import version

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from service.routes.dependencies import CurrentDrain, CurrentLifecycle, CurrentMetrics
from service.schemas.status import Live, Ready, Version
from service.version import VERSION

router = APIRouter()


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


@router.get("/metrics", response_class=Response)
async def show_metrics(
    request: Request, metrics: CurrentMetrics, lifecycle: CurrentLifecycle, drain: CurrentDrain
) -> Response:
    """Prometheus text."""
    metrics.ready.set(not lifecycle.reasons and not drain.is_draining)
    metrics.tasks.set(len(asyncio.all_tasks()))
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(metrics.registry), headers={"content-type": content_type})


@cache
def _installed(package: str) -> str:
    return version(package)
