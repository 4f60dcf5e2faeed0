"""What routes ask of the application."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.request_id import request_id_of
from service.served import ServedModel


def lifecycle_of(request: Request) -> Lifecycle:
    """The application's lifecycle."""
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


async def served_of(request: Request) -> AsyncIterator[ServedModel]:
    """The served model, until the last byte of the response; 503 until it is ready."""
    with lifecycle_of(request).serving(*await _wishes_of(request)) as served:
        yield served


async def _wishes_of(request: Request) -> tuple[str | None, str]:
    """The request id that will count, and the probe that is asked for.

    The body is looked into before it is validated: the probe is chosen, and its heads are held, first.
    """
    header_id = request_id_of(request.scope)
    try:
        body = await request.json() if await request.body() else {}
        own, guard = body.get("request_id"), body.get("guard") or {}
        asked = guard.get("probe")
    except (ValueError, AttributeError, RecursionError):  # such a body is refused in a moment
        return header_id, "default"
    return own if isinstance(own, str) else header_id, asked if isinstance(asked, str) else "default"


def metrics_of(request: Request) -> Metrics:
    """The application's metrics."""
    return lifecycle_of(request).metrics


CurrentLifecycle = Annotated[Lifecycle, Depends(lifecycle_of)]
CurrentModel = Annotated[ServedModel, Depends(served_of)]
CurrentMetrics = Annotated[Metrics, Depends(metrics_of)]
