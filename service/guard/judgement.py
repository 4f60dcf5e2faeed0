"""Judgement: what is known of a response's truth, in the words that everything behind the guard uses."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, NamedTuple

from probes.spans import AnswerSpan

Status = Literal["scored", "partial", "failed", "no_answer", "disabled"]
"""`partial`: every answer token was scored, some other token was not. Only `scored` and `partial` carry a risk."""
FailureReason = Literal["missing_rows", "not_finite", "scorer_error", "deadline", "engine_error"]


class TokenScore(NamedTuple):
    """What the probe says of one token alone."""

    logit: float | None = None
    residual: float | None = None
    """Logit of the residual head; None where the probe has none."""
    risk: float | None = None
    explain: "tuple[NeuronShare, ...] | None" = None
    """The neurons that say most, where the rows carry neurons."""


@dataclass(frozen=True, slots=True)
class SpanRisk:
    """An answer span and the risk of its own tokens."""

    span: AnswerSpan
    risk: float | None


@dataclass(frozen=True, slots=True)
class NeuronShare:
    """What one neuron adds to the logit: weight * mean CETT over the tokens that are judged."""

    layer: int
    neuron: int
    weight: float
    contribution: float


@dataclass(frozen=True, slots=True)
class Signals:
    """The parts over the answer tokens, those that go into the risk and the others; None where one is not finite."""

    cett: float | None = None
    """The pooled logit."""
    residual: float | None = None
    """The pooled logit of the residual head."""
    mean_logprob: float | None = None
    min_logprob: float | None = None
    mean_entropy: float | None = None
    max_entropy: float | None = None
    length: int | None = None
    """Answer tokens."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of a response's truth."""

    status: Status
    risk: float | None = None
    logit: float | None = None
    spans: tuple[SpanRisk, ...] = ()
    token_scores: tuple[TokenScore, ...] = ()
    signals: Signals = Signals()
    out_of_domain: bool | None = None
    """Whether the parts lie outside those of the training rows; None if not measured. Never changes the risk."""
    explain: tuple[NeuronShare, ...] | None = None
    failure: FailureReason | None = None

    def is_answer(self, token: int) -> bool:
        """Whether a span holds this token."""
        before = bisect_right(self.spans, token, key=lambda part: part.span.start)  # in order and disjoint
        return before > 0 and token < self.spans[before - 1].span.end
