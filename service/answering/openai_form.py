"""OpenAI's form: their request -> ours, our outcomes -> their answers. Generates nothing and decides nothing.

What the guard withheld, replaced or cut has finish reason `content_filter`: a client that knows nothing of the guard
must not take it for the model's whole answer.
"""

from collections.abc import Sequence

from pydantic import ValidationError

from service.choices.choice import Outcome
from service.choices.report import report_tokens
from service.schemas.generate import Choice, GenerateRequest, GenerateResponse
from service.schemas.openai_answer import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    FinishReason,
    LogprobEntry,
    TextChoice,
    TextCompletion,
    TextLogprobs,
)
from service.schemas.openai_request import ChatRequest, CompletionRequest
from service.schemas.options import GuardOptions
from service.schemas.report import GuardReport, TokenReport
from service.web.errors import validation_error

TEMPERATURE = 1.0
"""What an OpenAI request means that names none."""
COMPLETION_TOKENS = 16
"""Likewise of /v1/completions; a chat goes on until the model ends it."""


def read_request(body: ChatRequest | CompletionRequest) -> GenerateRequest:
    """The same request as `POST /generate` takes it.

    Raises:
        ApiError: 422, where its parts contradict each other.
    """
    guard = body.guard or GuardOptions()
    sampling = {
        "temperature": TEMPERATURE if body.temperature is None else body.temperature,
        "top_p": body.top_p,
        "top_k": None if body.top_k is None else max(body.top_k, 0),
        "n": body.n,
        "seed": body.seed,
        "stop": body.stop,
    }
    if isinstance(body, ChatRequest):
        max_tokens = body.max_tokens or body.max_completion_tokens
        roles = {"developer": "system"}
        asked: dict[str, object] = {
            "messages": [
                {"role": roles.get(message.role, message.role), "content": message.content} for message in body.messages
            ]
        }
    else:
        max_tokens = body.max_tokens or COMPLETION_TOKENS
        asked = {"prompt": body.prompt, "raw": True}
    optional = {
        "model": body.model,
        "timeout_s": body.timeout_s,
        "request_id": body.request_id,
        "stream": body.stream,
        "stream_mode": body.stream_mode or ("hold" if guard.policy in ("block", "abstain") else None),
    }
    given = {name: value for name, value in sampling.items() if value is not None}
    try:
        return GenerateRequest.model_validate(
            asked
            | {name: value for name, value in optional.items() if value is not None}
            | {"sampling": {**given, "max_tokens": max_tokens}, "guard": guard}
        )
    except ValidationError as problem:
        raise validation_error(
            [{**error, "loc": tuple(at for at in error["loc"] if at != "sampling")} for error in problem.errors()]
        ) from None


def write_chat(answer: GenerateResponse, outcomes: Sequence[Outcome], *, wants_logprobs: bool) -> ChatCompletion:
    """The answer to a chat request."""
    choices = [
        ChatChoice(
            index=outcome.choice.index,
            message=AnswerMessage(content=outcome.choice.text),
            logprobs=write_logprobs(_tokens(outcome)) if wants_logprobs and not outcome.is_withheld else None,
            finish_reason=finish_reason(outcome.choice),
            guard=guard_of(outcome.choice),
        )
        for outcome in outcomes
    ]
    return ChatCompletion(
        id=answer.id,
        created=answer.created,
        model=answer.model,
        choices=choices,
        usage=answer.usage,
        guard=choices[0].guard,
    )


def write_text(answer: GenerateResponse, outcomes: Sequence[Outcome], *, wants_logprobs: bool) -> TextCompletion:
    """The answer to a request for a text."""
    choices = [
        TextChoice(
            index=outcome.choice.index,
            text=outcome.choice.text,
            logprobs=write_columns(_tokens(outcome)) if wants_logprobs and not outcome.is_withheld else None,
            finish_reason=finish_reason(outcome.choice),
            guard=guard_of(outcome.choice),
        )
        for outcome in outcomes
    ]
    return TextCompletion(
        id=answer.id,
        created=answer.created,
        model=answer.model,
        choices=choices,
        usage=answer.usage,
        guard=choices[0].guard,
    )


def write_headers(guard: GuardReport) -> dict[str, str]:
    """What clients read that show headers only; a response that was not scored has the risk `null`."""
    return {
        "x-hguard-risk": "null" if guard.risk is None else repr(guard.risk),
        "x-hguard-action": guard.action,
        "x-hguard-probe": f"{guard.probe.name}@{guard.probe.version}",
    }


def finish_reason(choice: Choice) -> FinishReason:
    """In OpenAI's words."""
    reason = choice.finish_reason
    if reason == "blocked" or reason == "abstained" or guard_of(choice).action == "stopped":
        return "content_filter"
    return reason


def guard_of(choice: Choice) -> GuardReport:
    """The guard object; every judged choice has one."""
    assert choice.guard is not None
    return choice.guard


def write_logprobs(tokens: Sequence[TokenReport]) -> ChatLogprobs:
    """Log-probabilities as a chat answer carries them."""
    entries = [
        LogprobEntry(
            token=token.text or "",
            logprob=token.logprob,
            bytes=list((token.text or "").encode()),
            risk=token.risk,
        )
        for token in tokens
    ]
    return ChatLogprobs(content=entries)


def write_columns(tokens: Sequence[TokenReport]) -> TextLogprobs:
    """Log-probabilities as a text answer carries them."""
    return TextLogprobs(
        tokens=[token.text or "" for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        token_risks=[token.risk for token in tokens],
        text_offset=[token.start for token in tokens],
    )


def _tokens(outcome: Outcome) -> list[TokenReport]:
    return report_tokens(outcome.generation.response, outcome.generation.judgement, is_withheld=False)
