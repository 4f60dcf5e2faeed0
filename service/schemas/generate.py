"""POST /generate: request and response."""

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from service.schemas.options import GuardOptions, SamplingOptions
from service.schemas.prompt import Prompted
from service.schemas.report import GuardReport
from service.schemas.strict import Sent

FinishLabel = Literal["stop", "length", "blocked", "abstained", "cancelled", "error"]


class GenerateRequest(Prompted):
    """Ask the model; the response is judged while it is made."""

    sampling: SamplingOptions = SamplingOptions()
    guard: GuardOptions = GuardOptions()
    stream: bool = False
    stream_mode: Literal["immediate", "hold"] = Field(
        "immediate", description="hold: tokens leave once they were judged; policy suppress always holds"
    )

    @model_validator(mode="after")
    def _refuse_leaks(self) -> "GenerateRequest":
        if self.stream and self.stream_mode == "immediate" and self.guard.policy in ("block", "abstain"):
            raise PydanticCustomError(
                "conflict",
                'policies block and abstain need "stream_mode": "hold": an immediate stream would leak the text',
            )
        return self


class Usage(Sent):
    """Token counts; of the tokens that were generated, those of the responses that are served."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Timing(Sent):
    """Where the seconds went; with several choices, of the slowest one."""

    queue_s: float
    prefill_s: float
    decode_s: float
    scoring_s: float


class Choice(Sent):
    """One response."""

    index: int
    text: str
    finish_reason: FinishLabel
    guard: GuardReport | None
    """Null only in a stream's `done` event: it was sent as the `guard` event."""


class GenerateResponse(Sent):
    """All choices; `risk` is choice 0's."""

    id: str
    model: str
    created: int
    usage: Usage
    risk: float | None
    choices: list[Choice]
    timing: Timing
