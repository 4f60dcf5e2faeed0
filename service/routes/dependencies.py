"""What routes ask of the application."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Request

from service.admission import Admission, Ticket
from service.auth import caller_of
from service.drain import Drain
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.served import ServedModel


def lifecycle_of(request: Request) -> Lifecycle:
    """The application's lifecycle."""
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


async def served_of(request: Request) -> AsyncIterator[ServedModel]:
    """The served model under the limits of the caller's key, until the last byte of the response; 503 until ready."""
    with lifecycle_of(request).serving() as served:
        yield replace(served, limits=caller_of(request.scope).limits)


def metrics_of(request: Request) -> Metrics:
    """The application's metrics."""
    return lifecycle_of(request).metrics


async def current_lifecycle(request: Request) -> Lifecycle:
    """`lifecycle_of`, called on the event loop: a plain function would wait for a thread, health routes with it."""
    return lifecycle_of(request)


async def current_metrics(request: Request) -> Metrics:
    """`metrics_of`, called on the event loop."""
    return metrics_of(request)


async def current_drain(request: Request) -> Drain:
    """Whether the service is shutting down."""
    drain: Drain = request.app.state.drain
    return drain


CurrentLifecycle = Annotated[Lifecycle, Depends(current_lifecycle)]
CurrentModel = Annotated[ServedModel, Depends(served_of)]
CurrentMetrics = Annotated[Metrics, Depends(current_metrics)]
CurrentDrain = Annotated[Drain, Depends(current_drain)]


async def ticket_of(request: Request, _: CurrentModel) -> AsyncIterator[Ticket]:
    """The request's way through admission, until the last byte of the response; 429 or 503 before any work.

    A route that uses the engine calls `ticket.join` once it knows the size, and does its work within `ticket.run`.
    """
    admission: Admission = request.app.state.admission
    ticket = admission.open(caller_of(request.scope))
    try:
        yield ticket
    finally:
        ticket.close()


CurrentTicket = Annotated[Ticket, Depends(ticket_of)]
