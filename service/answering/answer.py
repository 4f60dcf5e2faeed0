"""Answer: the outcomes of a request as the body of `POST /generate`; a stream's `done` event is the same body."""

import secrets
import time
from collections.abc import Sequence

from service.choices.choice import Outcome
from service.choices.plan import GenerationPlan
from service.observe.record import AnsweredChoice, note_answered
from service.schemas.generate import Choice, GenerateResponse, Timing, Usage


def new_id() -> str:
    """Name of a served response."""
    return f"gen-{secrets.token_hex(12)}"


def action_of(outcomes: Sequence[Outcome]) -> str:
    """Choice 0's action."""
    guard = outcomes[0].choice.guard
    return guard.action if guard else "none"


def note_outcomes(response_id: str, outcomes: Sequence[Outcome]) -> None:
    """Keep what is served on the request's record."""
    generations = [outcome.generation for outcome in outcomes]
    note_answered(
        response_id,
        [
            AnsweredChoice(choice.index, made.response, made.judgement, choice.guard, choice.finish_reason)
            for made, choice in zip(generations, (outcome.choice for outcome in outcomes), strict=True)
        ],
    )


def assemble(
    response_id: str,
    model: str,
    plans: Sequence[GenerationPlan],
    outcomes: Sequence[Outcome],
    choices: Sequence[Choice],
    *,
    queue_seconds: float = 0.0,
) -> GenerateResponse:
    """Put the answer together; `queue_seconds` is what the request waited for admission."""
    note_outcomes(response_id, outcomes)
    prompt_tokens = len(plans[0].prompt_ids)
    completion_tokens = sum(len(outcome.generation.response.tokens) for outcome in outcomes)
    guard = outcomes[0].choice.guard
    timings = [outcome.timing for outcome in outcomes]
    return GenerateResponse(
        id=response_id,
        model=model,
        created=int(time.time()),
        usage=Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        ),
        risk=guard.risk if guard else None,
        choices=list(choices),
        timing=Timing(
            queue_s=queue_seconds + max(timing.queue_seconds for timing in timings),
            prefill_s=max(timing.prefill_seconds for timing in timings),
            decode_s=max(timing.decode_seconds for timing in timings),
            scoring_s=max(timing.scoring_seconds for timing in timings),
        ),
    )
