"""Run: what every route that generates does between its body and its answer, in whatever format it answers."""

from collections.abc import Sequence

from service.answering.answer import action_of, assemble, new_id
from service.answering.call import Call
from service.choices.choice import Outcome, run_choices, within
from service.choices.offload import LONG_TEXT, offload
from service.choices.plan import GenerationPlan, plan_choices, text_length
from service.schemas.generate import GenerateRequest, GenerateResponse
from service.web.disconnect import ClientLeftError, while_connected
from service.web.middleware import note_action
from service.web.request_id import override_request_id

OPEN_ENDED_TOKENS = 1024
"""What admission is told of a choice that names no limit and may fill the context; most answers end long before."""


async def plan_and_join(call: Call, body: GenerateRequest) -> list[GenerationPlan]:
    """Check the request and take a place in the queue for it.

    Raises:
        ApiError: As `plan_choices` and `Ticket.join` say.
    """
    request_id = override_request_id(call.request.scope, body.request_id)
    plans = await offload(plan_choices, call.served, body, request_id, when=text_length(body) > LONG_TEXT)
    most = plans[0].max_tokens if body.sampling.max_tokens else min(plans[0].max_tokens, OPEN_ENDED_TOKENS)
    call.ticket.join(len(plans), len(plans) * (len(plans[0].prompt_ids) + most))
    call.metrics.prompt_tokens.inc(len(plans[0].prompt_ids))
    return plans


async def run_connected(
    call: Call, plans: Sequence[GenerationPlan], timeout_seconds: float
) -> tuple[GenerateResponse, list[Outcome]]:
    """Generate all choices, when their turn has come, while the client stays.

    Raises:
        ApiError: The request failed; see `within`, `run_choice` and `Ticket.run`.
        ClientLeftError: Nobody waits for the answer any more; counted here, and the generation has ended.
    """
    work = within(timeout_seconds, call.ticket.run(lambda: run_choices(call.served, plans, call.metrics)))
    try:
        outcomes = await while_connected(call.request.receive, work)
    except ClientLeftError:
        call.metrics.disconnects.inc()
        raise
    return finish(call, new_id(), plans, outcomes), outcomes


def finish(
    call: Call, response_id: str, plans: Sequence[GenerationPlan], outcomes: Sequence[Outcome]
) -> GenerateResponse:
    """Remember what was served, and put the answer together."""
    call.feedback.remember_choices(response_id, call.served, plans, outcomes)
    note_action(call.request.scope, action_of(outcomes))
    model, choices = call.served.engine.model_name, [outcome.choice for outcome in outcomes]
    return assemble(response_id, model, plans, outcomes, choices, queue_seconds=call.ticket.queue_seconds)
