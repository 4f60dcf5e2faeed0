"""What routes ask of the application."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from service.auth import caller_of
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.served import ServedModel


def lifecycle_of(request: Request) -> Lifecycle:
    """The application's lifecycle."""
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


async def served_of(request: Request) -> AsyncIterator[ServedModel]:
    """The served model under the limits of the caller's key, until the last byte of the response; 503 until ready."""
    with lifecycle_of(request).serving(caller_of(request.scope).limits) as served:
        yield served


def metrics_of(request: Request) -> Metrics:
    """The application's metrics."""
    return lifecycle_of(request).metrics


CurrentLifecycle = Annotated[Lifecycle, Depends(lifecycle_of)]
CurrentModel = Annotated[ServedModel, Depends(served_of)]
CurrentMetrics = Annotated[Metrics, Depends(metrics_of)]
