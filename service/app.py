"""The application: routes, limits and errors around one lifecycle."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service.admission.access import Authorize
from service.admission.gate import Admission
from service.admission.key_ring import KeyRing
from service.answering.prompt_memory import PromptMemory
from service.drain import Drain
from service.feedback.feedback import Feedback
from service.lifecycle import Lifecycle, Parts
from service.observe.metrics import Metrics
from service.routes import checks, feedback, generate, litellm, openai, page, probes, score, status
from service.routes.openapi import install_openapi
from service.settings import Settings
from service.sinks.opening import open_sinks
from service.version import VERSION
from service.watchdog import Watchdog
from service.web.errors import install_handlers
from service.web.middleware import CountRequests, LimitBody


def create_app(settings: Settings, parts: Parts | None = None) -> FastAPI:
    """Build the application; its lifespan loads.

    Args:
        settings: The operator's choices.
        parts: Engine and probe that are loaded already, and proved before the first request; None: they are loaded
            behind requests that are told so.

    Raises:
        KeysFileError: The file of API keys cannot be used.
        StartupError: The audit log or the traces cannot be written by these settings.
    """
    metrics = Metrics()
    lifecycle = Lifecycle(settings, metrics, parts)
    admission = Admission(
        metrics,
        max_sequences=settings.max_concurrent,
        queue_size=settings.queue_size,
        queue_tokens=settings.queue_tokens,
    )
    watchdog = Watchdog(lifecycle, admission, settings.stall_s)
    keys = KeyRing(settings.api_keys_file, settings.admin_key_sha256, metrics)
    labels = Feedback(settings, metrics, lambda: lifecycle.active)
    sinks = open_sinks(settings, metrics)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        starting = lifecycle.begin()
        if parts is not None:
            await starting
        watching = asyncio.create_task(watchdog.run()) if settings.stall_s else None
        labels.start()
        yield
        if watching is not None:
            watching.cancel()
        await labels.close()
        await lifecycle.close()
        for sink in sinks:
            await asyncio.to_thread(sink.close)

    app = FastAPI(
        title="hguard",
        version=VERSION,
        summary="Hallucination risk while a model answers",
        lifespan=lifespan,
        docs_url=None,  # its page would run another host's script on the origin that keeps the playground's key
        redoc_url=None,
        redirect_slashes=False,  # a redirect's address would come from the client's Host header
    )
    app.state.lifecycle = lifecycle
    app.state.admission = admission
    app.state.drain = Drain(admission, metrics, settings.drain_s)
    app.state.prompts = PromptMemory(
        limit_bytes=settings.remember_bytes,
        seconds=settings.remember_s,
        on_unread=lambda reason: metrics.prompts_forgotten.labels(reason).inc(),
    )
    app.state.feedback = labels
    install_handlers(app)
    app.add_middleware(LimitBody)
    app.add_middleware(Authorize, keys=keys)
    app.add_middleware(CountRequests, metrics=metrics, sinks=sinks)  # added last, so it is passed first
    for module in (generate, score, openai, checks, litellm, feedback, probes, status):
        app.include_router(module.router)
    app.include_router(page.router if settings.page else page.plain_router)
    install_openapi(app)
    return app
