"""The one shape of every error."""

from service.schemas.strict import Sent


class ErrorDetail(Sent):
    """One of several problems with a request."""

    param: str | None
    message: str


class ErrorBody(Sent):
    """What went wrong, in words for the caller."""

    message: str
    type: str
    param: str | None
    code: str
    request_id: str | None
    details: list[ErrorDetail] | None = None


class ErrorResponse(Sent):
    """The error envelope."""

    error: ErrorBody
