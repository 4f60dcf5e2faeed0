"""POST /feedback: request and response."""

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from service.schemas.strict import Sent, Strict


class LabelSpan(Strict):
    """Where in the response's text the answer stands that was judged; code points, as in `guard.spans`."""

    start: int = Field(ge=0, lt=2**31)
    end: int = Field(ge=1, lt=2**31)

    @model_validator(mode="after")
    def _refuse_empty(self) -> "LabelSpan":
        if self.start >= self.end:
            raise PydanticCustomError("span", "a span ends after it starts")
        return self


class FeedbackRequest(Strict):
    """A person's or a judge's word on a response that was served."""

    id: str = Field(min_length=1, max_length=128, description="the response's `id`")
    label: Literal["faithful", "hallucinated"] = Field(description="of the response as the model wrote it")
    span: LabelSpan | None = Field(None, description="the place that decided the label; kept for the trainer")
    choice: int = Field(0, ge=0, lt=2**31, description="which of the response's choices")


class FeedbackResponse(Sent):
    """The label is kept."""

    id: str
    choice: int
    label: Literal["faithful", "hallucinated"]
    replaced: bool
    """The response had a label before; it is counted once."""
