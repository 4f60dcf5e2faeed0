"""Auth: who calls, what the key may be used for, and the operator's limits on it. Knows no file and no route."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from starlette.types import Scope

from service.guard.policy import OnError, Policy
from service.schemas.strict import Strict

KeyScope = Literal["infer", "admin", "metrics"]
_CALLER = "hguard.caller"

Count = Annotated[int, Field(ge=1, lt=2**53)]


class Limits(Strict):
    """What the operator allows a key; None is no limit. Frozen."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    """Of prompts and responses together."""
    max_tokens: Count | None = None
    """Of each choice."""
    policies: Annotated[tuple[Policy, ...], Field(min_length=1, strict=False)] | None = None
    """That a generation may ask for; one that names none gets `annotate` where it is allowed, else the first."""
    max_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Highest risk from which a policy may act."""
    on_error: OnError | None = None
    """The only one that a request may ask for, and what it gets in place of the server's setting."""


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is."""

    name: str
    """Of the key: unique and no secret; for logs and rate limits, never a label of a metric."""
    scopes: frozenset[KeyScope]
    limits: Limits = NO_LIMITS


def set_caller(scope: Scope, caller: Caller) -> None:
    """Keep the caller in the ASGI scope."""
    scope[_CALLER] = caller


def caller_of(scope: Scope) -> Caller:
    """Whose request an ASGI scope is of; `service.admission.access` sets it before any handler runs."""
    caller: Caller = scope[_CALLER]
    return caller
