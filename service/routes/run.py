"""Run: what every route that generates does between its body and its answer, in whatever format it answers."""

from collections.abc import Sequence

from fastapi import Request

from service.admission import Ticket
from service.answer import action_of
from service.choice import Outcome, run_choices, within
from service.disconnect import ClientLeftError, while_connected
from service.metrics import Metrics
from service.middleware import note_action
from service.offload import LONG_BODY, offload
from service.plan import GenerationPlan, plan_choices
from service.schemas.generate import GenerateRequest
from service.served import ServedModel

OPEN_ENDED_TOKENS = 1024
"""What admission is told of a choice that names no limit and may fill the context; most answers end long before."""


async def plan_and_join(
    request: Request, body: GenerateRequest, served: ServedModel, metrics: Metrics, ticket: Ticket, request_id: str
) -> list[GenerationPlan]:
    """Check the request and take a place in the queue for it.

    Raises:
        ApiError: As `plan_choices` and `Ticket.join` say.
    """
    is_long = len(await request.body()) > LONG_BODY
    plans = await offload(plan_choices, served, body, request_id, when=is_long)
    most = plans[0].max_tokens if body.sampling.max_tokens else min(plans[0].max_tokens, OPEN_ENDED_TOKENS)
    ticket.join(len(plans), len(plans) * (len(plans[0].prompt_ids) + most))
    metrics.prompt_tokens.inc(len(plans[0].prompt_ids))
    return plans


async def run_connected(
    request: Request,
    served: ServedModel,
    plans: Sequence[GenerationPlan],
    metrics: Metrics,
    ticket: Ticket,
    timeout_seconds: float,
) -> list[Outcome]:
    """Generate all choices, when their turn has come, while the client stays.

    Raises:
        ApiError: The request failed; see `within`, `run_choice` and `Ticket.run`.
        ClientLeftError: Nobody waits for the answer any more; counted here, and the generation has ended.
    """
    work = within(timeout_seconds, ticket.run(lambda: run_choices(served, plans, metrics)))
    try:
        outcomes = await while_connected(request.receive, work)
    except ClientLeftError:
        metrics.disconnects.inc()
        raise
    note_action(request.scope, action_of(outcomes))
    return outcomes
