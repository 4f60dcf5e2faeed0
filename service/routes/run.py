"""Run: a planned request that is answered as one piece of JSON, in whatever format its route answers."""

from collections.abc import Sequence

from fastapi import Request

from service.answer import action_of
from service.choice import Outcome, run_choices, within
from service.disconnect import ClientLeftError, while_connected
from service.metrics import Metrics
from service.middleware import note_action
from service.plan import GenerationPlan
from service.served import ServedModel


async def run_connected(
    request: Request, served: ServedModel, plans: Sequence[GenerationPlan], metrics: Metrics, timeout_seconds: float
) -> list[Outcome]:
    """Generate all choices while the client stays.

    Raises:
        ApiError: The request failed; see `within` and `run_choice`.
        ClientLeftError: Nobody waits for the answer any more; counted here, and the generation has ended.
    """
    metrics.running.inc()
    try:
        outcomes = await while_connected(request.receive, within(timeout_seconds, run_choices(served, plans, metrics)))
    except ClientLeftError:
        metrics.disconnects.inc()
        raise
    finally:
        metrics.running.dec()
    note_action(request.scope, action_of(outcomes))
    return outcomes
