"""Unit scores: a labelled text's tokens, as POST /score sees them, pooled over each labelled unit.

    unit (code points) -> tokens that hold any of them -> parts -> risk, by the sums of the service

Does not score and does not know how units are judged.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from offline.longer_text.labelled_text import LabelledText, UnitKind, is_marked
from probes.domain import Domain
from probes.parts import Part, measure_parts
from probes.risk import RiskModel
from probes.spans import char_span_to_tokens

SCORES = (
    "risk",
    "risk of located tokens",
    "probe logit",
    "mean log-probability",
    "minimum log-probability",
    "mean entropy",
    "maximum entropy",
    "length",
)
"""Of every unit; higher means hallucinated."""
RISKS = SCORES[:2]
"""Those that have a shipped threshold."""
TOKEN_SCORES = ("risk", "risk of located tokens", "probe logit", "mean log-probability", "mean entropy")
"""Of one token alone mean, minimum and maximum are the same, and the length is 1."""


@dataclass(frozen=True, slots=True)
class ScoredText:
    """What the service makes of a text, one row on disk."""

    source: str
    text_id: str
    left_out: str = ""
    """Why there is no score; "" where there is."""
    n_prompt: int = 0
    status: str = ""
    risk: float | None = None
    out_of_domain: bool | None = None
    starts: tuple[int, ...] = ()
    """First code point of each token [T]."""
    ends: tuple[int, ...] = ()
    logits: tuple[float, ...] = ()
    """Of the probe [T]."""
    residuals: tuple[float, ...] = ()
    """Logits of the residual head [T]; empty where the probe has none."""
    logprobs: tuple[float, ...] = ()
    """Nats [T]."""
    entropies: tuple[float, ...] = ()
    """Nats [T]."""
    is_answer: tuple[bool, ...] = ()
    """Whether the locator takes the token [T]."""


@dataclass(frozen=True, slots=True)
class ScoredUnit:
    """A labelled unit and its scores."""

    document: str
    text_id: str
    label: int
    scores: dict[str, float]
    """Keys are `SCORES`; for a unit without a located token the risk of located tokens is 0: /score flags nothing."""
    has_claim: bool
    """Whether the locator takes any of its tokens."""
    is_outside: bool
    """Whether its parts lie outside the probe's domain."""


def score_units(
    text: LabelledText, scored: ScoredText, kind: UnitKind, risk_model: RiskModel, domain: Domain
) -> Iterator[ScoredUnit]:
    """Pool over each unit of a text.

    Args:
        text: With the marks.
        scored: The same text's tokens; not left out.
        kind: `text.kind`, or `token` where ranges are marked.
        risk_model: Of the probe that scored.
        domain: Of the same probe.
    """
    for tokens, label in _unit_tokens(text, scored, kind):
        parts = _measure(scored, tokens)
        located = [at for at in tokens if scored.is_answer[at]]
        scores = {
            "risk": risk_model.risk(parts),
            "risk of located tokens": risk_model.risk(_measure(scored, located)) if located else 0.0,
            "probe logit": parts["cett"],
            "mean log-probability": -parts["mean_logprob"],
            "minimum log-probability": -parts["min_logprob"],
            "mean entropy": parts["mean_entropy"],
            "maximum entropy": parts["max_entropy"],
            "length": parts["length"],
        }
        is_outside = bool(domain.is_outside(parts))
        yield ScoredUnit(text.document, text.text_id, label, scores, bool(located), is_outside)


def _unit_tokens(text: LabelledText, scored: ScoredText, kind: UnitKind) -> Iterator[tuple[Sequence[int], int]]:
    offsets = list(zip(scored.starts, scored.ends, strict=True))
    if kind == "token":
        assert text.marked is not None, "tokens are labelled by marked ranges"
        for at, (start, end) in enumerate(offsets):
            yield (at,), int(is_marked(start, end, text.marked))
        return
    assert kind == text.kind, f"the units of {text.source} are {text.kind}s"
    for unit in text.units:
        span = char_span_to_tokens(offsets, unit.start, unit.end)
        assert span is not None, "the tokens' text is the response"
        yield range(span.start, span.end), unit.label


def _measure(scored: ScoredText, tokens: Sequence[int]) -> dict[Part, float]:
    return measure_parts(
        [scored.logits[at] for at in tokens],
        [scored.logprobs[at] for at in tokens],
        [scored.entropies[at] for at in tokens],
        [scored.residuals[at] for at in tokens] if scored.residuals else None,
    )
