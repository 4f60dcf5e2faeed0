"""Plan: a checked request in the engine's terms. What can be refused is refused here, before a token is made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError

from probes.probe import Probe
from probes.prompts import NoChatTemplateError, encode_messages, encode_prompt
from probes.sampling import SamplingParams
from service.admission.key_limits import allow_max_tokens, allow_on_error, allow_policy, allow_threshold
from service.guard.judge import Locator
from service.guard.policy import HELD, WHOLE, OnError, Policy
from service.observe.record import note_asked
from service.probe_roles.served import ServedModel, probe_label
from service.schemas.generate import GenerateRequest
from service.schemas.options import GuardOptions
from service.schemas.prompt import Prompted
from service.schemas.score import ScoreRequest
from service.web.errors import ApiError


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """What the guard is to do, defaults filled in."""

    policy: Policy
    threshold: float
    alpha: float
    """Of the main generation."""
    suppress_alpha: float
    """Of the second generation under policy `suppress`."""
    locator: Locator
    question: str
    explains: bool
    on_error: OnError
    shows_tokens: bool
    shows_spans: bool

    @property
    def is_scored(self) -> bool:
        """Whether taps are read."""
        return self.policy != "off"


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """One choice to generate."""

    request_id: str
    prompt_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams
    seed: int | None
    stop: tuple[str, ...]
    guard: GuardPlan
    holds: bool = False
    """A stream of which nothing may leave that was not judged."""
    hold_tokens: int = 0
    """Tokens that a held stream keeps back at most; 0: it is not held, or until the whole response was judged."""


def plan_choices(served: ServedModel, body: GenerateRequest, request_id: str) -> list[GenerationPlan]:
    """One plan a choice.

    Raises:
        ApiError: The model or probe is not served here, the key may not ask for this, or the prompt cannot be encoded
            or does not fit.
    """
    check_names(served, body)
    prompt_ids = encode_request(served, body)
    options = body.sampling
    asked = options.max_tokens or max(1, served.engine.max_model_len - len(prompt_ids))
    is_named = options.max_tokens is not None and "max_tokens" in options.model_fields_set
    max_tokens = allow_max_tokens(served.limits, asked, is_named=is_named)
    guard = plan_guard(served, allow_policy(served.limits, body.guard), body.question)
    check_length(served, len(prompt_ids), max_tokens, param="sampling.max_tokens")
    note_asked(body, served, guard, len(prompt_ids))
    holds = body.stream and (guard.policy in HELD or (guard.is_scored and body.stream_mode == "hold"))
    return [
        GenerationPlan(
            request_id=f"{request_id}-{index}",
            prompt_ids=prompt_ids,
            max_tokens=max_tokens,
            sampling=SamplingParams(options.temperature, options.top_p, options.top_k),
            seed=None if options.seed is None else (options.seed + index) % 2**63,
            stop=tuple(options.stop),
            guard=guard,
            holds=holds,
            hold_tokens=served.hold_tokens if holds and guard.policy not in WHOLE else 0,
        )
        for index in range(options.n)
    ]


def plan_guard(served: ServedModel, options: GuardOptions, question: str) -> GuardPlan:
    """Fill in what the request left to the server and the probe.

    Raises:
        ApiError: 422, where the probe does not carry the budget that the request names; 403, where the key may not
            ask for this.
    """
    threshold = find_threshold(served.probe, options.threshold)
    suppresses = options.policy == "suppress"
    return GuardPlan(
        policy=options.policy,
        threshold=allow_threshold(served.limits, options, threshold),
        alpha=1.0 if suppresses else options.alpha,
        suppress_alpha=options.alpha if options.alpha < 1 else served.suppress_alpha,
        locator=options.locator,
        question=question,
        explains=options.explain,
        on_error=allow_on_error(served.limits, options.on_error, served.on_error),
        shows_tokens=options.return_tokens,
        shows_spans=options.return_spans,
    )


def find_threshold(probe: Probe, asked: float | str | None) -> float:
    """The risk from which to act.

    Args:
        probe: The served probe.
        asked: A risk; `fpr:` and a budget; or None for the probe's own.

    Raises:
        ApiError: 422, where the probe does not carry the budget.
    """
    if asked is None:
        return probe.threshold
    if not isinstance(asked, str):
        return asked
    share = float(asked.removeprefix("fpr:"))
    for budget in probe.budgets:
        if math.isclose(budget.fpr, share):
            return budget.threshold
    carried = ", ".join(f'"fpr:{budget.fpr:g}"' for budget in probe.budgets) or "none"
    message = f"this probe has no threshold for that budget; it has: {carried}"
    raise ApiError(422, "unknown_budget", message, param="guard.threshold")


def check_names(served: ServedModel, body: GenerateRequest | ScoreRequest) -> None:
    """Only the loaded model and probe can be asked for.

    Raises:
        ApiError: 404.
    """
    if body.model not in (None, served.engine.model_name):
        raise ApiError(404, "model_not_found", f"the model served here is {served.engine.model_name}", param="model")
    probe = served.probe
    if body.guard.probe not in ("default", probe.name, probe_label(served.probe)):
        raise ApiError(
            404, "probe_not_found", f"the probe served here is {probe_label(served.probe)}", param="guard.probe"
        )


def text_length(body: GenerateRequest | ScoreRequest) -> int:
    """Characters that will be tokenised."""
    turns = [body.prompt or "", *(message.content for message in body.messages or ())]
    return sum(map(len, turns)) + len(getattr(body, "response", None) or "")


def encode_request(served: ServedModel, body: Prompted) -> tuple[int, ...]:
    """Prompt token ids.

    Raises:
        ApiError: 422.
    """
    tokenizer = served.engine.tokenizer
    try:
        if body.messages is not None:
            ids = encode_messages(tokenizer, [message.model_dump() for message in body.messages])
        else:
            ids = encode_prompt(tokenizer, body.question, raw=body.raw)
    except NoChatTemplateError as error:
        raise ApiError(422, "no_chat_template", str(error), param="messages") from None
    except TemplateError:
        message = "the model's chat template refuses this order of roles (some have no system role)"
        raise ApiError(422, "chat_template", message, param="messages") from None
    if not ids:
        raise ApiError(422, "empty_prompt", "the prompt has no tokens", param="prompt")
    return tuple(ids)


def check_length(served: ServedModel, n_prompt: int, n_response: int, *, param: str) -> None:
    """Prompt and response fit the model's context.

    Raises:
        ApiError: 422.
    """
    limit = served.engine.max_model_len
    if n_prompt + n_response > limit:
        message = f"{n_prompt} prompt tokens and {n_response} response tokens are more than the model's {limit}"
        raise ApiError(422, "context_length_exceeded", message, param=param)


def encode_response(served: ServedModel, body: ScoreRequest, prompt_ids: Sequence[int]) -> tuple[int, ...]:
    """Token ids of a response that is to be scored, as they would follow the prompt.

    Raises:
        ApiError: 422, where text and given ids are not of the same response.
    """
    tokenizer = served.engine.tokenizer
    if body.response_token_ids is None:
        assert body.response is not None
        if body.raw:
            assert body.prompt is not None
            # Tokenizers may cut text otherwise at its beginning than after a prompt.
            joined = list(tokenizer(body.prompt + body.response).input_ids)
            if tuple(joined[: len(prompt_ids)]) == tuple(prompt_ids) and len(joined) > len(prompt_ids):
                return tuple(joined[len(prompt_ids) :])
        return tuple(tokenizer(body.response, add_special_tokens=False).input_ids)
    ids = tuple(body.response_token_ids)
    if min(ids) < 0 or max(ids) >= len(tokenizer):
        raise ApiError(422, "validation_error", "an id is not in the model's vocabulary", param="response_token_ids")
    return ids
