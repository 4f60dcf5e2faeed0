"""The events of a stream: start, token ..., span ..., guard, then done or error; all but start name their choice."""

from typing import Literal

from service.schemas.report import GuardReport, SpanReport, TokenReport
from service.schemas.strict import Sent


class StartEvent(Sent):
    """Sent before the first token."""

    id: str
    model: str
    created: int
    request_id: str
    stream_mode: Literal["immediate", "hold"]
    """`hold` also where the policy holds: tokens follow once the whole response was judged."""


class TokenEvent(TokenReport):
    """A token, once its text and its score are final."""

    index: int


class SpanEvent(SpanReport):
    """An answer span; known once the response is whole."""

    index: int


class GuardEvent(GuardReport):
    """The final guard object."""

    index: int
    finish_reason: str
