"""JSON bodies: what no reader may be given, because two readers could understand it differently or one not at all."""

import json
from typing import Any

from pydantic_core import from_json

from service.web.errors import ApiError


class _TwiceError(ValueError):
    """A name appears twice in one object."""


def check_json(body: bytes) -> None:
    """The body is one JSON value in UTF-8, no deeper than 200 levels, with finite numbers, and no name given twice.

    Raises:
        ApiError: 400.
    """
    try:
        from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError:
        message = "the body is not valid JSON: UTF-8, at most 200 levels deep, no NaN or Infinity"
        raise ApiError(400, "invalid_json", message) from None
    try:
        # A gateway that reads the first of two policies and we the last would each guard another request.
        json.loads(body, object_pairs_hook=_refuse_twice)
    except _TwiceError:
        raise ApiError(400, "invalid_json", "the body has a name twice in one object") from None


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise _TwiceError
