"""Errors as clients see them: one shape, stable codes, no input echoed and no internals shown."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.observe.record import note_error
from service.schemas.error import ErrorBody, ErrorDetail, ErrorResponse
from service.web.request_id import request_id_of

DETAILS_LIMIT = 10

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
_HTTP_CODES = {
    400: ("bad_request", "the request cannot be read"),
    404: ("not_found", "there is nothing at this path"),
    405: ("method_not_allowed", "this path has other methods"),
}

logger = logging.getLogger("hguard")


class ApiError(Exception):
    """An answer other than success."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        details: Sequence[ErrorDetail] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.details = status, code, message, param, details
        self.retry_after = retry_after
        """Seconds, for the header of that name."""

    def envelope(self, request_id: str | None) -> ErrorResponse:
        """The body; what the request ends with is noted on its record."""
        note_error(self.status, self.code)
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        details = list(self.details[:DETAILS_LIMIT]) or None
        body = ErrorBody(
            message=self.message,
            type=kind,
            param=self.param,
            code=self.code,
            request_id=request_id,
            details=details,
        )
        return ErrorResponse(error=body)

    def response(self, request_id: str | None) -> Response:
        """The HTTP response."""
        headers = {"x-request-id": request_id} if request_id else {}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        body = self.envelope(request_id).model_dump_json(exclude_none=False)
        return Response(body, self.status, headers, media_type="application/json")


def internal_error() -> ApiError:
    """What the client is told of a defect: nothing."""
    return ApiError(500, "internal_error", "internal error; the log has it under this request id")


def install_handlers(app: FastAPI) -> None:
    """Give every error of the application the one shape."""

    async def on_api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response(request_id_of(request.scope))

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return validation_error(error.errors()).response(request_id_of(request.scope))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code, message = _HTTP_CODES.get(error.status_code, ("error", "the request was refused"))
        response = ApiError(error.status_code, code, message).response(request_id_of(request.scope))
        response.headers.update(error.headers or {})  # 405 carries Allow
        return response

    async def on_defect(request: Request, error: Exception) -> Response:
        request_id = request_id_of(request.scope)
        logger.error("request %s failed", request_id, exc_info=error)
        return internal_error().response(request_id)

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_defect)


def validation_error(problems: Iterable[Any]) -> ApiError:
    """422 for a body of the wrong shape, 400 for one that is no JSON."""
    found = list(problems)
    if any(problem["type"] == "json_invalid" for problem in found):
        return ApiError(400, "invalid_json", "the body is not valid JSON")
    details = [ErrorDetail(param=_param(problem["loc"]), message=problem["msg"]) for problem in found[:DETAILS_LIMIT]]
    first = details[0]
    where = f"{first.param}: " if first.param else ""
    return ApiError(422, "validation_error", where + first.message, param=first.param, details=details)


def _param(location: Sequence[str | int]) -> str | None:
    """`("body", "sampling", "stop", 0)` -> `sampling.stop[0]`."""
    name = ""
    for part in location[1:] if location[:1] == ("body",) else location:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name or None
