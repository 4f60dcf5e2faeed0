"""The guard: evidence -> token scores -> answer spans -> parts over a span's tokens -> calibrated risk.

    logit = mean of the span's scores of a head + its intercept;  risk = risk model of logits and free signals

A span and a token alone are judged as sets of tokens, by the same sums; the risk of a response is that of its deciding
span, see `Locator`. Pure, and the same for a generated and a teacher-forced response. Decides nothing (see
`service.guard.policy`) and does not know which engine the evidence came from.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from probes.parts import Part
from probes.positions import align_rows
from probes.probe import Probe
from probes.spans import AnswerLocator, AnswerSpan
from service.engines.base import RowEvidence
from service.guard.judgement import FailureReason, Judgement, NeuronShare, Signals, SpanRisk, Status, TokenScore
from service.guard.response import ModelResponse, ResponseToken

Locator = Literal["default", "lexical", "claims", "response"]
"""Which spans there are, and whose risk is that of the response. `lexical`: the claim of each sentence, the first one
decides; `claims`: the same, the riskiest decides; `response`: all tokens as one span."""
LOCATORS = ("lexical", "response")
"""What a probe may name: what it was calibrated with."""

EXPLAIN_LIMIT = 10
"""Neurons that `explain` lists for an answer."""
TOKEN_EXPLAIN_LIMIT = 5
"""And for a token."""

_MISSING = (math.nan, math.nan)
"""The scores of a row that is not there."""


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
    parts = _measure(probe, (token,), (row,), AnswerSpan(0, 1))
    logit = finite(parts["cett"])
    explain = None if logit is None else _explain(probe, (row,), TOKEN_EXPLAIN_LIMIT)
    return TokenScore(logit, finite(parts["residual"]), _risk(probe, parts), explain)


class SpanFinder:
    """Finds the answer spans of a response that grows, in reading order; none where nothing is claimed."""

    def __init__(self, probe: Probe, question: str, locator: Locator) -> None:
        """Read the question.

        Args:
            probe: The served probe.
            question: The last user turn.
            locator: Which tokens are judged; `default` is the one the probe was calibrated with.
        """
        self.locator: str = probe.locator if locator == "default" else locator
        self._answers = None if self.locator == "response" else AnswerLocator(question)

    @property
    def has_settled(self) -> bool:
        """Whether the first span is one that no later token can change."""
        return self._answers is not None and self._answers.has_settled

    def find(self, response: ModelResponse) -> list[AnswerSpan]:
        """The spans of the response so far, which begins with the one of the last call."""
        if self._answers is not None:
            return self._answers.locate(response.text, response.offsets)
        n = len(response.tokens)
        return [AnswerSpan(0, n)] if n else []


def judge_spans(response: ModelResponse, probe: Probe, spans: Sequence[AnswerSpan]) -> tuple[SpanRisk, ...]:
    """The risk of each of some spans, by its own tokens."""
    if not spans:
        return ()
    rows = _token_rows(response, probe)
    return tuple(SpanRisk(span, _risk(probe, _measure(probe, response.tokens, rows, span))) for span in spans)


def judge(response: ModelResponse, probe: Probe, *, question: str, locator: Locator) -> Judgement:
    """Judge a scored response.

    Args:
        response: With the rows that the probe's position rule needs.
        probe: The served probe.
        question: The last user turn, for the locator.
        locator: Which tokens are judged; `default` is the one the probe was calibrated with.
    """
    rows, finder = _token_rows(response, probe), SpanFinder(probe, question, locator)
    judged = judge_spans(response, probe, finder.find(response))
    token_scores = tuple(score_token(probe, token, row) for token, row in zip(response.tokens, rows, strict=True))
    if not judged:
        return Judgement("no_answer", token_scores=token_scores)
    unscored_spans = [part.span for part in judged if part.risk is None]
    failure: FailureReason | None = None
    if unscored_spans:
        status: Status = "failed"
        is_missing = any(None in rows[span.start : span.end] for span in unscored_spans)
        failure = "missing_rows" if is_missing else "not_finite"
    else:
        status = "partial" if any(score.risk is None for score in token_scores) else "scored"
    deciding = decide_span(judged, finder.locator)
    span, risk = deciding.span, None if unscored_spans else deciding.risk
    parts = _measure(probe, response.tokens, rows, span)
    return Judgement(
        status,
        risk=risk,
        logit=None if risk is None else parts["cett"],
        spans=judged,
        token_scores=token_scores,
        signals=_signals(parts),
        out_of_domain=None if risk is None else probe.domain.is_outside(parts),
        explain=None if risk is None else _explain(probe, rows[span.start : span.end], EXPLAIN_LIMIT),
        failure=failure,
    )


def decide_span(judged: Sequence[SpanRisk], locator: str) -> SpanRisk:
    """The span whose risk is that of the response; under `claims` one without a risk counts as the riskiest."""
    if locator != "claims":
        return judged[0]
    return max(judged, key=lambda part: math.inf if part.risk is None else part.risk)


def _token_rows(response: ModelResponse, probe: Probe) -> list[RowEvidence | None]:
    """The row of each token [T]; None where it is missing."""
    n = len(response.tokens)
    rows = list(align_rows(response.rows, n, probe.position))
    return rows + [None] * (n - len(rows))


def _measure(
    probe: Probe, tokens: Sequence[ResponseToken], rows: Sequence[RowEvidence | None], span: AnswerSpan
) -> Mapping[Part, float]:
    """The parts over the tokens of a span; nan where a number is missing."""
    inside = slice(span.start, span.end)
    return probe.measure(
        [AnswerSpan(0, len(span))],
        [_MISSING if row is None else row.scores for row in rows[inside]],
        [token.logprob for token in tokens[inside]],
        [token.entropy for token in tokens[inside]],
    )


def _risk(probe: Probe, parts: Mapping[Part, float]) -> float | None:
    """The risk; None without a probe score even where the risk model does without it: a silent tap is a failure."""
    if not math.isfinite(parts["cett"]):
        return None
    return finite(probe.risk_model.risk(parts))


def _signals(parts: Mapping[Part, float]) -> Signals:
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


def _explain(probe: Probe, rows: Sequence[RowEvidence | None], limit: int) -> tuple[NeuronShare, ...] | None:
    """The neurons that say most; None unless every row carries neurons, which they do where a request asks for it."""
    neurons = [row.neurons for row in rows if row is not None and row.neurons is not None]
    if len(neurons) < len(rows):
        return None
    shares = probe.weights.astype(np.float64) * np.mean(np.asarray(neurons, dtype=np.float64), axis=0)
    most = np.argsort(-np.abs(shares), kind="stable")[:limit]
    layers, index = probe.neurons.layer, probe.neurons.index
    return tuple(NeuronShare(int(layers[k]), int(index[k]), float(probe.weights[k]), float(shares[k])) for k in most)
