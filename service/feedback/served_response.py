"""ServedResponse: what is remembered of a response, so that a later label of it can be used.

Numbers only, unless the operator keeps texts: no prompt, and neither token ids nor token texts, from which a response
could be made again. The parts are enough to fit a risk anew.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from probes.fingerprint import ModelFingerprint
from service.choices.choice import Outcome
from service.choices.plan import GenerationPlan, GuardPlan
from service.choices.report import report_spans
from service.guard.judgement import Judgement
from service.guard.policy import Action
from service.guard.response import ModelResponse
from service.probe_roles.served import ServedModel, probe_label


@dataclass(frozen=True, slots=True)
class ServedResponse:
    """One choice of one answer; the fields are the columns of the store."""

    id: str
    choice: int
    created: float
    """Unix seconds."""
    model: str
    model_sha256: str
    """Of the model's fingerprint."""
    probe: str
    probe_sha256: str
    status: str
    risk: float | None
    logit: float | None
    threshold: float
    """Of the request."""
    policy: str
    action: str
    alpha: float
    is_calibrated: bool
    """The risk was made under the conditions that the probe was calibrated for: alpha 1 and its own locator."""
    parts: Mapping[str, float]
    """Those that were measured, of `probes.parts`."""
    spans: Sequence[Mapping[str, Any]]
    """Token and code-point ranges of the answer spans, with their risk."""
    text_length: int
    """Code points."""
    question: str | None
    """Null unless texts are kept; so is `response`."""
    response: str | None

    @property
    def n_characters(self) -> int:
        """Of the texts that are kept."""
        return len(self.question or "") + len(self.response or "")


def describe_choices(
    response_id: str,
    served: ServedModel,
    plans: Sequence[GenerationPlan],
    outcomes: Sequence[Outcome],
    *,
    keeps_text: bool,
) -> list[ServedResponse]:
    """What is remembered of each choice of a generated answer."""
    return [
        describe_response(
            response_id,
            served,
            plan.guard,
            outcome.generation.response,
            outcome.generation.judgement,
            action="none" if outcome.choice.guard is None else outcome.choice.guard.action,
            alpha=outcome.generation.alpha,
            choice=outcome.choice.index,
            keeps_text=keeps_text,
        )
        for plan, outcome in zip(plans, outcomes, strict=True)
    ]


def describe_response(
    response_id: str,
    served: ServedModel,
    guard: GuardPlan,
    response: ModelResponse,
    judgement: Judgement,
    *,
    action: Action,
    alpha: float,
    choice: int,
    keeps_text: bool,
) -> ServedResponse:
    """What is remembered of one response."""
    probe = served.probe
    parts = {name: value for name, value in asdict(judgement.signals).items() if value is not None}
    return ServedResponse(
        id=response_id,
        choice=choice,
        created=time.time(),
        model=served.engine.model_name,
        model_sha256=_sha256(served.artifact.model),
        probe=probe_label(probe),
        probe_sha256=served.artifact.sha256,
        status=judgement.status,
        risk=judgement.risk,
        logit=judgement.logit,
        threshold=guard.threshold,
        policy=guard.policy,
        action=action,
        alpha=alpha,
        is_calibrated=alpha == 1 and guard.locator in ("default", probe.locator),
        parts=parts,
        spans=[span.model_dump(exclude={"text"}) for span in report_spans(response, judgement, is_withheld=True)],
        text_length=len(response.text),
        question=_storable(guard.question) if keeps_text else None,
        response=_storable(response.text) if keeps_text else None,
    )


@lru_cache(maxsize=8)
def _sha256(model: ModelFingerprint) -> str:
    return hashlib.sha256(json.dumps(asdict(model), sort_keys=True).encode()).hexdigest()


def _storable(text: str) -> str:
    """PostgreSQL takes no NUL, and neither database half a surrogate pair."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
