"""The application: routes, limits and errors around one lifecycle."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service.errors import install_handlers
from service.lifecycle import Lifecycle, Parts
from service.metrics import Metrics
from service.middleware import CountRequests, LimitBody
from service.routes import generate, probes, score, status
from service.settings import Settings
from service.version import VERSION


def create_app(settings: Settings, parts: Parts | None = None) -> FastAPI:
    """Build the application; nothing is loaded before its lifespan begins, unless `lifecycle.prepare` is called.

    Args:
        settings: The operator's choices.
        parts: Engine and probe that are loaded already.
    """
    metrics = Metrics()
    lifecycle = Lifecycle(settings, metrics, parts)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await lifecycle.start()
        yield
        await lifecycle.close()

    app = FastAPI(
        title="hguard", version=VERSION, summary="Hallucination risk while a model answers", lifespan=lifespan
    )
    app.state.lifecycle = lifecycle
    install_handlers(app)
    app.add_middleware(LimitBody)
    app.add_middleware(CountRequests, metrics=metrics)  # added last, so it is passed first
    for module in (generate, score, probes, status):
        app.include_router(module.router)
    return app
