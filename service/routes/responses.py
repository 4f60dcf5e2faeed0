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
        429: "the queue is full, or the key's rate limit is reached; see Retry-After",
        500: "a defect",
        503: "not ready, shutting down, or not scored under fail_closed",
        504: "timeout_s has passed",
    }.items()
}

ADMIN_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        401: "another key",
        403: "the key has not the scope admin, or no key has",
        404: "no such probe",
        409: "the probe is refused, or has that role already; what was served before still is",
        422: "a field is wrong",
        503: "no model is loaded",
    }.items()
}

FEEDBACK_ERRORS: dict[int | str, dict[str, Any]] = {
    400: ERRORS[400],
    404: {"model": ErrorResponse, "description": "no such response, or it was forgotten; or feedback is off"},
    413: ERRORS[413],
    415: ERRORS[415],
    422: ERRORS[422],
    503: {"model": ErrorResponse, "description": "the database does not answer"},
}

NOT_READY: dict[int | str, dict[str, Any]] = {503: ERRORS[503]}

_EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["start", "token", "span", "guard", "done", "error"]},
        "data": {"type": "string", "description": "JSON"},
        "id": {"type": "string", "description": "the token index, of token events"},
    },
    "required": ["event", "data"],
}

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "JSON, or with `stream` named events: start, token, span, guard, then done or error"}
    | {"content": {"text/event-stream": {"schema": _EVENT}}}
}

CHUNKS: dict[int | str, dict[str, Any]] = {
    200: {"description": "JSON, or with `stream` unnamed `data:` lines, then `data: [DONE]`"}
    | {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
