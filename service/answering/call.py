"""Call: one request that uses the engine, and all that the application gives it."""

from dataclasses import dataclass

from fastapi import Request

from service.admission.gate import Ticket
from service.feedback.feedback import Feedback
from service.observe.metrics import Metrics
from service.probe_roles.served import ServedModel


@dataclass(frozen=True)
class Call:
    """Lives until the response's last byte.

    Its route calls `ticket.join` once it knows how large the request is, and works within `ticket.run`.
    """

    request: Request
    served: ServedModel
    metrics: Metrics
    ticket: Ticket
    feedback: Feedback
