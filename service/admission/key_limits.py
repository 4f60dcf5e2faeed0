"""Key limits: what a request may ask for under the limits of its key, and what it gets where it asks for nothing."""

from contextlib import suppress

from pydantic import ValidationError

from service.admission.auth import Limits
from service.guard.policy import OnError
from service.schemas.options import GuardOptions
from service.web.errors import ApiError


def allow_max_tokens(limits: Limits, asked: int, *, is_named: bool) -> int:
    """Tokens of a choice at most.

    Args:
        limits: Of the key.
        asked: What the request says, or what it gets where it does not.
        is_named: Whether it says; one that does not gets no more than its key may have.

    Raises:
        ApiError: 403.
    """
    allowed = limits.max_tokens
    if allowed is None or asked <= allowed:
        return asked
    if not is_named:
        return allowed
    raise _forbidden("max_tokens_limit", f"this API key may ask for {allowed} tokens", "sampling.max_tokens")


def allow_policy(limits: Limits, options: GuardOptions) -> GuardOptions:
    """Options with an allowed policy; a request that names none gets `annotate` where it is allowed, else the first.

    Where policies are limited, what is judged is not the client's choice either: another locator or a scaled model has
    other risks.

    Raises:
        ApiError: 403.
    """
    allowed = limits.policies
    if allowed is not None and options.locator != "default":
        raise _forbidden("policy_limit", "this API key may not choose a locator", "guard.locator")
    if allowed is not None and options.alpha != 1 and options.policy != "suppress":
        raise _forbidden("policy_limit", "this API key may not choose an alpha", "guard.alpha")
    if allowed is None or options.policy in allowed:
        return options
    if "policy" not in options.model_fields_set:
        with suppress(ValidationError):  # the request's other options conflict with that policy
            return GuardOptions.model_validate({**options.model_dump(exclude_unset=True), "policy": allowed[0]})
    raise _forbidden("policy_limit", f"this API key may ask for the policies {', '.join(allowed)}", "guard.policy")


def allow_check(limits: Limits, options: GuardOptions) -> None:
    """A check of a given answer may always block; it may only look on where the key may.

    Raises:
        ApiError: 403.
    """
    if limits.policies is not None:
        allow_policy(limits.model_copy(update={"policies": (*limits.policies, "block")}), options)


def allow_threshold(limits: Limits, options: GuardOptions, threshold: float) -> float:
    """The threshold; the probe's own is lowered where it is over what the key may have.

    Args:
        limits: Of the key.
        options: Whether the request asked for one.
        threshold: As the request and the probe say.

    Raises:
        ApiError: 403.
    """
    allowed = limits.max_threshold
    if allowed is None or threshold <= allowed:
        return threshold
    if options.threshold is None:
        return allowed
    raise _forbidden("threshold_limit", f"this API key may ask for thresholds up to {allowed:g}", "guard.threshold")


def allow_on_error(limits: Limits, asked: OnError | None, default: OnError) -> OnError:
    """What to do with a response that cannot be scored.

    Args:
        limits: Of the key.
        asked: What the request says.
        default: The server's setting.

    Raises:
        ApiError: 403.
    """
    allowed = limits.on_error
    if allowed is None:
        return asked or default
    if asked in (None, allowed):
        return allowed
    raise _forbidden("on_error_limit", f"this API key may ask for {allowed} only", "guard.on_error")


def _forbidden(code: str, message: str, param: str) -> ApiError:
    return ApiError(403, code, message, param=param)
