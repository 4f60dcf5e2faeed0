"""Access: which key opens which route. What is not in the table is refused, whatever key is shown."""

from typing import Literal

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from service.admission.auth import Caller, KeyScope, set_caller
from service.admission.key_ring import ANYONE, KeyRing
from service.observe.record import note_caller
from service.web.errors import ApiError
from service.web.request_id import request_id_of

Need = KeyScope | Literal["public", "any"]
"""Scope that a key must have; `any` key does; `public` needs none."""

ROUTES: dict[str, Need] = {
    "GET /": "public",
    "GET /page/{name}": "public",
    "GET /livez": "public",
    "GET /readyz": "public",
    "GET /openapi.json": "public",
    "GET /version": "any",
    "GET /probes": "any",
    "GET /metrics": "metrics",
    "POST /generate": "infer",
    "POST /score": "infer",
    "GET /v1/models": "infer",
    "POST /v1/chat/completions": "infer",
    "POST /v1/completions": "infer",
    "POST /v1/checks": "infer",
    "POST /beta/litellm_basic_guardrail_api": "infer",
    "POST /feedback": "infer",
    "POST /probes/reload": "admin",
    "POST /probes/{name}/activate": "admin",
    "POST /probes/{name}/rollback": "admin",
}

NOBODY = Caller("nobody", frozenset())
"""Who calls a public route."""


class Authorize:
    """Lets a request in if the key that it shows opens its route; the body has not been read yet."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket":  # there are none
            await send({"type": "websocket.close", "code": 1008})
            return
        route = _find_route(scope) if scope["type"] == "http" else None
        if route is not None:
            scope["route"] = route  # a refused request is counted under it, too
            try:
                caller = self._admit(scope, need_of(scope["method"], route))
                set_caller(scope, caller)
                note_caller(caller.name)
            except ApiError as refusal:
                response = refusal.response(request_id_of(scope))
                if refusal.status == 401:
                    response.headers["www-authenticate"] = "Bearer"
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _admit(self, scope: Scope, need: Need | None) -> Caller:
        if need is None:
            raise ApiError(403, "route_closed", "this route is open to nobody: it is not in the table of routes")
        if need == "public":
            return NOBODY
        caller = self.keys.find(shown_key(Headers(scope=scope)))
        if caller is None or (caller is ANYONE and need == "admin" and self.keys.has_admin):
            raise ApiError(401, "invalid_api_key", "send a valid API key as Authorization: Bearer KEY")
        if need == "any" or need in caller.scopes:
            return caller
        if caller is ANYONE:
            message = "no admin key is set: put the SHA-256 of one, in hex, into HGUARD_ADMIN_KEY_SHA256 and restart"
            raise ApiError(403, "no_admin_key", message)
        raise ApiError(403, "scope_missing", f"this API key does not have the scope {need}")


def need_of(method: str, route: BaseRoute) -> Need | None:
    """What a route needs; None where nobody may call it."""
    return ROUTES.get(f"{'GET' if method == 'HEAD' else method} {getattr(route, 'path', None)}")


def shown_key(headers: Headers) -> bytes | None:
    """The key of `Authorization: Bearer KEY` or `x-api-key: KEY`."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        key = headers.get("x-api-key", "")
    return key.strip().encode("latin-1") or None


def _find_route(scope: Scope) -> BaseRoute | None:
    """The route that the router will choose; None where it will answer 404 or 405 itself."""
    return next((route for route in scope["app"].routes if route.matches(scope)[0] is Match.FULL), None)
