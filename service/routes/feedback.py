"""POST /feedback: a label for a response that was served."""

from fastapi import APIRouter

from service.feedback.store import Label
from service.routes.dependencies import CurrentFeedback
from service.routes.responses import FEEDBACK_ERRORS
from service.schemas.feedback import FeedbackRequest, FeedbackResponse

router = APIRouter()


@router.post("/feedback", responses=FEEDBACK_ERRORS)
async def feedback(body: FeedbackRequest, labels: CurrentFeedback) -> FeedbackResponse:
    """Keep a label; a second one for the same response replaces the first."""
    span = None if body.span is None else (body.span.start, body.span.end)
    stored = await labels.label(Label(body.id, body.choice, body.label, span))
    return FeedbackResponse(id=body.id, choice=body.choice, label=body.label, replaced=not stored.is_first)
