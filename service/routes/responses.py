"""What the OpenAPI document says of errors."""

from typing import Any

from service.schemas.error import ErrorResponse

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        400: "no JSON",
        404: "another model or probe",
        413: "too large",
        415: "not application/json",
        422: "a field is wrong, or an option is not supported",
        500: "a defect",
        503: "not ready, or not scored under fail_closed",
        504: "timeout_s has passed",
    }.items()
}

ADMIN_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        401: "another key",
        403: "no key is set",
        404: "no such probe",
        409: "the probe is refused, or has that role already; what was served before still is",
        422: "a field is wrong",
        503: "no model is loaded",
    }.items()
}

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "JSON, or with `stream` named events: start, token, span, guard, then done or error"}
    | {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
