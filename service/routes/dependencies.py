"""What routes ask of the application."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from service.admission.auth import caller_of
from service.admission.gate import Admission
from service.answering.call import Call
from service.drain import Drain
from service.feedback.feedback import Feedback
from service.lifecycle import Lifecycle
from service.observe.metrics import Metrics
from service.probe_roles.served import ServedModel
from service.web.request_id import request_id_of


def lifecycle_of(request: Request) -> Lifecycle:
    """The application's lifecycle."""
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


async def served_of(request: Request) -> AsyncIterator[ServedModel]:
    """The served model under the limits of the caller's key, until the last byte of the response; 503 until ready."""
    with lifecycle_of(request).serving(caller_of(request.scope).limits, *await _wishes_of(request)) as served:
        yield served


async def _wishes_of(request: Request) -> tuple[str | None, str]:
    """The request id that will count, and the probe that is asked for.

    The body is looked into before it is validated: the probe is chosen, and its heads are held, first.
    """
    header_id = request_id_of(request.scope)
    if request.method != "POST":  # the body of another is nobody's, and of any size
        return header_id, "default"
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


async def current_feedback(request: Request) -> Feedback:
    """The application's memory of served responses."""
    feedback: Feedback = request.app.state.feedback
    return feedback


CurrentLifecycle = Annotated[Lifecycle, Depends(current_lifecycle)]
CurrentModel = Annotated[ServedModel, Depends(served_of)]
CurrentMetrics = Annotated[Metrics, Depends(current_metrics)]
CurrentDrain = Annotated[Drain, Depends(current_drain)]
CurrentFeedback = Annotated[Feedback, Depends(current_feedback)]


async def call_of(
    request: Request, served: CurrentModel, metrics: CurrentMetrics, feedback: CurrentFeedback
) -> AsyncIterator[Call]:
    """The request on its way through admission, until the last byte of the response; 429 or 503 before any work."""
    admission: Admission = request.app.state.admission
    ticket = admission.open(caller_of(request.scope))
    try:
        yield Call(request, served, metrics, ticket, feedback)
    finally:
        ticket.close()


CurrentCall = Annotated[Call, Depends(call_of)]
