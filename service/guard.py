"""The guard: evidence -> token scores -> answer spans -> parts over the answer tokens -> calibrated risk.

    logit = mean of the answer tokens' scores of a head + its intercept;  risk = risk model of logits and free signals

A response, a span, a response that goes on and a token alone are all judged as a set of tokens, by the same sums. Pure,
and the same for a generated and a teacher-forced response. Decides nothing (see `service.policy`) and does not know
which engine the evidence came from.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from probes.parts import Part
from probes.positions import align_rows
from probes.probe import Probe
from probes.spans import AnswerSpan, locate_answer
from service.engines.base import RowEvidence
from service.response import ModelResponse, ResponseToken

Status = Literal["scored", "partial", "failed", "no_answer", "disabled"]
"""`partial`: every answer token was scored, some other token was not. Only `scored` and `partial` carry a risk."""
Locator = Literal["default", "lexical", "response"]
LOCATORS = ("lexical", "response")
"""What a probe may name."""
FailureReason = Literal["missing_rows", "not_finite"]

EXPLAIN_LIMIT = 10
"""Neurons that `explain` lists."""

_MISSING = (math.nan, math.nan)
"""The scores of a row that is not there."""
_FOLLOWED = re.compile(r"[.,;:!?)\n]|\s\w")
"""Text after a span that ends it: punctuation or another word. An apostrophe does not."""


class TokenScore(NamedTuple):
    """What the probe says of one token alone."""

    logit: float | None = None
    residual: float | None = None
    """Logit of the residual head; None where the probe has none."""
    risk: float | None = None


@dataclass(frozen=True, slots=True)
class SpanRisk:
    """An answer span and the risk of its own tokens."""

    span: AnswerSpan
    risk: float | None


@dataclass(frozen=True, slots=True)
class NeuronShare:
    """What one neuron adds to the logit: weight * mean CETT over the answer tokens."""

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


def unscored(response: ModelResponse) -> Judgement:
    """The judgement under policy `off`."""
    return Judgement("disabled", token_scores=(TokenScore(),) * len(response.tokens))


def score_token(probe: Probe, token: ResponseToken, row: RowEvidence | None) -> TokenScore:
    """Logit and risk of one token as a span of its own; nothing where its row is missing or a part is not finite.

    Both a stream and a whole judgement call this for one token at a time, so their numbers are equal to the last bit.

    Args:
        probe: The served probe.
        token: With the free signals of the row that predicted it.
        row: The row that scores it by the probe's position rule.
    """
    parts = _measure(probe, (token,), (row,), (AnswerSpan(0, 1),))
    return TokenScore(finite(parts["cett"]), finite(parts["residual"]), _risk(probe, parts))


def running_risk(response: ModelResponse, probe: Probe, *, question: str, locator: Locator) -> float | None:
    """The risk of a response that goes on; None where nothing is claimed yet or a score is missing.

    A located span that nothing follows yet is still being written ("I" may become "I don't know") and is not judged.
    """
    spans = _locate(response, probe, question, locator)
    if spans and _locator_name(probe, locator) == "lexical":
        rest = response.text[response.tokens[spans[-1].end - 1].end :]
        if not _FOLLOWED.search(rest):
            return None
    return _risk(probe, _measure(probe, response.tokens, _token_rows(response, probe), spans))


def judge(
    response: ModelResponse, probe: Probe, *, question: str, locator: Locator, explains: bool = False
) -> Judgement:
    """Judge a scored response.

    Args:
        response: With the rows that the probe's position rule needs.
        probe: The served probe.
        question: The last user turn, for the locator.
        locator: Which tokens are pooled; `default` is the one the probe was calibrated with.
        explains: The rows carry neurons; list those that say most.
    """
    rows = _token_rows(response, probe)
    spans = _locate(response, probe, question, locator)
    parts = _measure(probe, response.tokens, rows, spans)
    risk = _risk(probe, parts)
    answer = _answer_tokens(spans)
    token_scores = tuple(score_token(probe, token, row) for token, row in zip(response.tokens, rows, strict=True))
    failure: FailureReason | None = None
    if not spans:
        status: Status = "no_answer"
    elif risk is None:
        status = "failed"
        failure = "missing_rows" if any(rows[at] is None for at in answer) else "not_finite"
    else:
        status = "partial" if any(score.risk is None for score in token_scores) else "scored"
    return Judgement(
        status,
        risk=risk,
        logit=None if risk is None else parts["cett"],
        spans=tuple(SpanRisk(span, _risk(probe, _measure(probe, response.tokens, rows, (span,)))) for span in spans),
        token_scores=token_scores,
        signals=_signals(parts),
        out_of_domain=None if risk is None else probe.domain.is_outside(parts),
        explain=_explain(probe, [rows[at] for at in answer]) if explains and risk is not None else None,
        failure=failure,
    )


def _token_rows(response: ModelResponse, probe: Probe) -> list[RowEvidence | None]:
    """The row of each token [T]; None where it is missing."""
    n = len(response.tokens)
    rows = list(align_rows(response.rows, n, probe.position))
    return rows + [None] * (n - len(rows))


def _measure(
    probe: Probe,
    tokens: Sequence[ResponseToken],
    rows: Sequence[RowEvidence | None],
    spans: Sequence[AnswerSpan],
) -> Mapping[Part, float]:
    """The parts over the tokens of these spans; empty where there is no span, nan where a number is missing."""
    if not spans:
        return {}
    return probe.measure(
        spans,
        [_MISSING if row is None else row.scores for row in rows],
        [token.logprob for token in tokens],
        [token.entropy for token in tokens],
    )


def _risk(probe: Probe, parts: Mapping[Part, float]) -> float | None:
    """The risk; None without a probe score even where the risk model does without it: a silent tap is a failure."""
    if not math.isfinite(parts.get("cett", math.nan)):
        return None
    return finite(probe.risk_model.risk(parts))


def _locate(response: ModelResponse, probe: Probe, question: str, locator: Locator) -> list[AnswerSpan]:
    n, name = len(response.tokens), _locator_name(probe, locator)
    if name == "response":
        return [AnswerSpan(0, n)] if n else []
    return locate_answer(question, response.text, response.offsets)


def _locator_name(probe: Probe, locator: Locator) -> str:
    return probe.locator if locator == "default" else locator


def _answer_tokens(spans: Sequence[AnswerSpan]) -> list[int]:
    return sorted({at for span in spans for at in range(span.start, span.end)})


def _signals(parts: Mapping[Part, float]) -> Signals:
    if not parts:
        return Signals()
    return Signals(
        cett=finite(parts["cett"]),
        residual=finite(parts["residual"]),
        mean_logprob=finite(parts["mean_logprob"]),
        min_logprob=finite(parts["min_logprob"]),
        mean_entropy=finite(parts["mean_entropy"]),
        max_entropy=finite(parts["max_entropy"]),
        length=int(parts["length"]),
    )


def finite(value: float | np.floating) -> float | None:
    """JSON has no nan."""
    return float(value) if math.isfinite(value) else None


def _explain(probe: Probe, rows: Sequence[RowEvidence | None]) -> tuple[NeuronShare, ...] | None:
    neurons = [row.neurons for row in rows if row is not None and row.neurons is not None]
    if len(neurons) < len(rows):
        return None
    shares = probe.weights.astype(np.float64) * np.mean(np.asarray(neurons, dtype=np.float64), axis=0)
    most = np.argsort(-np.abs(shares), kind="stable")[:EXPLAIN_LIMIT]
    layers, index = probe.neurons.layer, probe.neurons.index
    return tuple(NeuronShare(int(layers[k]), int(index[k]), float(probe.weights[k]), float(shares[k])) for k in most)
