"""What every request passes, as plain ASGI: request id, counting, and the limits on its body.

Plain ASGI because a wrapping response class would hide the client's disconnect from the handlers below.
"""

import time

from sse_starlette.sse import SendTimeoutError
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ApiError
from service.json_body import check_json
from service.metrics import Metrics
from service.request_id import assign_request_id, request_id_of

BODY_LIMIT_BYTES = 1024 * 1024
CLIENT_LEFT = 499
"""Counted for a client that left; nobody reads it."""
_ACTION = "hguard.action"


def note_action(scope: Scope, action: str) -> None:
    """Say what the policy did, for `requests_total`."""
    scope[_ACTION] = action


class CountRequests:
    """Gives each request its id, and counts and times it under its route's template."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        assign_request_id(scope)
        began, code = time.perf_counter(), CLIENT_LEFT

        async def send_with_id(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id_of(scope) or ""
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except SendTimeoutError:  # a stream's client that reads nothing any more is one that left, and no defect
            code = CLIENT_LEFT
            self.metrics.disconnects.inc()
        except Exception:
            code = 500  # answered further out
            raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(code), scope.get(_ACTION, "none")).inc()
            self.metrics.duration.labels(route).observe(time.perf_counter() - began)


class LimitBody:
    """Reads the body before the handler sees it: JSON only, sound, and not too much."""

    def __init__(self, app: ASGIApp, limit_bytes: int = BODY_LIMIT_BYTES) -> None:
        self.app, self.limit_bytes = app, limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(headers)
        body = b""
        while refusal is None:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > self.limit_bytes:
                refusal = self._too_large()
            elif not message.get("more_body", False):
                break
        if refusal is None and body:
            refusal = _refuse(headers, body)
        if refusal is not None:
            await refusal.response(request_id_of(scope))(scope, receive, send)
            return
        whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            if whole is None:
                return await receive()
            message, whole = whole, None
            return message

        await self.app(scope, replay, send)

    def _refusal(self, headers: Headers) -> ApiError | None:
        length = headers.get("content-length", "0")
        return self._too_large() if length.isdigit() and int(length) > self.limit_bytes else None

    def _too_large(self) -> ApiError:
        return ApiError(413, "payload_too_large", f"the body is over {self.limit_bytes} bytes")


def _refuse(headers: Headers, body: bytes) -> ApiError | None:
    if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        return ApiError(415, "unsupported_media_type", "send the body as application/json")
    try:
        check_json(body)
    except ApiError as refusal:
        return refusal
    return None
