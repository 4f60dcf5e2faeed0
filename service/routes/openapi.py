"""The OpenAPI document: what FastAPI knows of the routes, with the keys that they need and the refusals before them."""

from typing import Any

from fastapi import FastAPI

from service.admission.access import ROUTES

_BEFORE_ALL = {500: "a defect"}
_BEFORE_CLOSED = {401: "no valid API key", 403: "the key lacks the scope or its limits forbid this"}
_BEFORE_BODIES = {400: "no sound JSON", 413: "too large", 415: "not application/json", 422: "a field is wrong"}
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}


def install_openapi(app: FastAPI) -> None:
    """Complete the document that the application serves."""
    plain = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(plain())
        return app.openapi_schema

    app.openapi = complete  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    document["components"]["securitySchemes"] = _SCHEMES
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            refusals = dict(_BEFORE_ALL)
            if ROUTES.get(f"{method.upper()} {path}") != "public":
                operation["security"] = [{name: []} for name in _SCHEMES]
                refusals |= _BEFORE_CLOSED
            if "requestBody" in operation:
                refusals |= _BEFORE_BODIES
            for status, text in refusals.items():
                described = operation["responses"].get(str(status), {"description": text})
                operation["responses"][str(status)] = {**described, "content": _ERROR}
    return document
