"""The request id: the client's where it is sane, else a new one; kept in the ASGI scope, sent with every answer."""

import re
import secrets

from starlette.datastructures import Headers
from starlette.types import Scope

from service.observe.record import note_request_id

_KEY = "hguard.request_id"
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def assign_request_id(scope: Scope) -> None:
    """Take the id from the header; text that could forge log lines is replaced."""
    sent = Headers(scope=scope).get("x-request-id", "")
    scope[_KEY] = sent if _SANE.fullmatch(sent) else f"req-{secrets.token_hex(12)}"


def override_request_id(scope: Scope, request_id: str | None) -> str:
    """Let the body's `request_id` win over the header; returns the one that counts."""
    if request_id is not None:
        scope[_KEY] = request_id
        note_request_id(request_id)
    return str(scope[_KEY])


def request_id_of(scope: Scope) -> str | None:
    """The id of this request."""
    found: str | None = scope.get(_KEY)
    return found
