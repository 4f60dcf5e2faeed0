"""What every request passes, as plain ASGI: request id, counting, and the limits on its body.

Plain ASGI because a wrapping response class would hide the client's disconnect from the handlers below.
"""

import logging
import time
from collections.abc import Sequence

from sse_starlette.sse import SendTimeoutError
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.observe.metrics import Metrics
from service.observe.record import CLIENT_LEFT as CLIENT_LEFT
from service.observe.record import RequestRecord, Sink, begin_record
from service.web.errors import ApiError
from service.web.json_body import check_json
from service.web.request_id import assign_request_id, request_id_of

BODY_LIMIT_BYTES = 1024 * 1024
_ACTION = "hguard.action"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
"""Any other is the client's text."""

logger = logging.getLogger("hguard")


def note_action(scope: Scope, action: str) -> None:
    """Say what the policy did, for `requests_total`."""
    scope[_ACTION] = action


def route_of(scope: Scope) -> str:
    """The template of the route that a request was for, also where it was refused before it got there."""
    route = scope.get("route")
    if route is None and "app" in scope:
        route = next((one for one in scope["app"].routes if one.matches(scope)[0] is not Match.NONE), None)
    return getattr(route, "path", "other")


class CountRequests:
    """Gives each request its id and its record, and counts, times and reports it under its route's template."""

    def __init__(self, app: ASGIApp, metrics: Metrics, sinks: Sequence[Sink] = ()) -> None:
        self.app, self.metrics, self.sinks = app, metrics, sinks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        assign_request_id(scope)
        traceparent = Headers(scope=scope).get("traceparent", "")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        record = RequestRecord(request_id_of(scope) or "", method, traceparent)
        began = time.perf_counter()
        begin_record(record)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id_of(scope) or ""
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except SendTimeoutError:  # a stream's client that reads nothing any more is one that left, and no defect
            record.status = CLIENT_LEFT
            self.metrics.disconnects.inc()
        except Exception:
            record.status, record.error = 500, "internal_error"  # answered further out
            raise
        finally:
            record.route, record.action = route_of(scope), scope.get(_ACTION, "none")
            record.seconds = time.perf_counter() - began
            if record.status == CLIENT_LEFT:
                record.error = "client_left"
            self.metrics.requests.labels(record.route, str(record.status), record.action).inc()
            self.metrics.duration.labels(record.route).observe(record.seconds)
            for sink in self.sinks:
                try:
                    sink.write(record)
                except Exception as error:  # a report that fails must not fail the request
                    logger.error("a request is missing in %s", type(sink).__name__, exc_info=error)


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
