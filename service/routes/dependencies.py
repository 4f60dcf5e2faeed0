"""What routes ask of the application."""

from typing import Annotated

from fastapi import Depends, Request

from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.served import ServedModel


def lifecycle_of(request: Request) -> Lifecycle:
    """The application's lifecycle."""
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


def served_of(request: Request) -> ServedModel:
    """The served model; 503 until it is ready."""
    return lifecycle_of(request).served


def metrics_of(request: Request) -> Metrics:
    """The application's metrics."""
    return lifecycle_of(request).metrics


CurrentLifecycle = Annotated[Lifecycle, Depends(lifecycle_of)]
CurrentModel = Annotated[ServedModel, Depends(served_of)]
CurrentMetrics = Annotated[Metrics, Depends(metrics_of)]
