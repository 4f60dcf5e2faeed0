"""Auth: who calls, what the key may be used for, and what the operator's limits on it are. Knows no file and no route."""

from dataclasses import dataclass
from typing import Literal

from starlette.types import Scope

from service.policy import OnError, Policy

KeyScope = Literal["infer", "admin", "metrics"]
_CALLER = "hguard.caller"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows a key; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and responses together."""
    max_tokens: int | None = None
    """Of each choice."""
    policies: tuple[Policy, ...] | None = None
    """That a generation may be asked for; one that names none gets `annotate` where it is allowed, else the first."""
    max_threshold: float | None = None
    """Highest risk that may be let through without an action."""
    on_error: OnError | None = None
    """The only one that a request may ask for; it gets it in place of the server's setting, too."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is."""

    name: str
    """Of the key, unique, never a secret; for logs and rate limits, not for metric labels."""
    scopes: frozenset[KeyScope]
    limits: Limits = Limits()


def set_caller(scope: Scope, caller: Caller) -> None:
    """Keep the caller in the ASGI scope."""
    scope[_CALLER] = caller


def caller_of(scope: Scope) -> Caller:
    """Whose request an ASGI scope is of; the middleware that let it in has set it."""
    caller: Caller = scope[_CALLER]
    return caller
