"""The guard: evidence -> token scores -> answer spans -> pooled logit -> calibrated risk.

    logit = mean of the answer tokens' head scores + intercept;  risk = calibration(logit)

Pure, and the same for a generated and a teacher-forced response. Decides nothing (see `service.policy`) and does not
know which engine the evidence came from.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probes.positions import align_rows
from probes.probe import Probe
from probes.spans import AnswerSpan, locate_answer
from service.engines.base import RowEvidence
from service.response import ModelResponse

Status = Literal["scored", "partial", "failed", "no_answer", "disabled"]
"""`partial`: every answer token was scored, some other token was not. Only `scored` and `partial` carry a risk."""
Locator = Literal["default", "lexical", "response"]
LOCATORS = ("lexical", "response")
"""What a probe may name."""
FailureReason = Literal["missing_rows", "not_finite"]

PROBE_HEAD = "probe"
"""Name of the served probe's head in every `HeadBank`; it is the first."""
EXPLAIN_LIMIT = 10
"""Neurons that `explain` lists."""

_FOLLOWED = re.compile(r"[.,;:!?)\n]|\s\w")
"""Text after a span that ends it: punctuation or another word. An apostrophe does not."""


class TokenScore(NamedTuple):
    """What the probe says of one token alone."""

    logit: float | None
    risk: float | None


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
    """The parts that can be looked at on their own; the free ones are taken over the answer tokens."""

    cett: float | None = None
    """The pooled logit."""
    mean_logprob: float | None = None
    min_logprob: float | None = None
    mean_entropy: float | None = None
    max_entropy: float | None = None
    length: int = 0
    """Tokens of the response."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of a response's truth."""

    status: Status
    risk: float | None = None
    logit: float | None = None
    spans: tuple[SpanRisk, ...] = ()
    token_scores: tuple[TokenScore, ...] = ()
    signals: Signals = Signals()
    explain: tuple[NeuronShare, ...] | None = None
    failure: FailureReason | None = None

    def is_answer(self, token: int) -> bool:
        """Whether a span holds this token."""
        return any(part.span.start <= token < part.span.end for part in self.spans)


def unscored(response: ModelResponse) -> Judgement:
    """The judgement under policy `off`."""
    scores = (TokenScore(None, None),) * len(response.tokens)
    return Judgement("disabled", token_scores=scores, signals=Signals(length=len(response.tokens)))


def score_token(probe: Probe, row: RowEvidence | None) -> TokenScore:
    """Logit and risk of the token that this row scores; nothing where the row is missing or not finite.

    Both a stream and a whole judgement call this for one token at a time, so their numbers are equal to the last bit.
    """
    if row is None or not math.isfinite(row.scores[0]):
        return TokenScore(None, None)
    logit = float(probe.token_logits(np.asarray(row.scores[:1]))[0])
    return TokenScore(logit, probe.calibration.risk(logit))


def running_risk(response: ModelResponse, probe: Probe, *, question: str, locator: Locator) -> float | None:
    """The risk of a response that goes on; None where nothing is claimed yet or a score is missing.

    A located span that nothing follows yet is still being written ("I" may become "I don't know") and is not judged.
    """
    _, scores = _token_rows(response, probe)
    spans = _locate(response, probe, question, locator)
    if spans and _locator_name(probe, locator) == "lexical":
        rest = response.text[response.tokens[spans[-1].end - 1].end :]
        if not _FOLLOWED.search(rest):
            return None
    return _risk(probe, _pool(probe, scores, spans))


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
    rows, scores = _token_rows(response, probe)
    spans = _locate(response, probe, question, locator)
    logit = _pool(probe, scores, spans)
    answer = _answer_tokens(spans)
    failure: FailureReason | None = None
    if not spans:
        status: Status = "no_answer"
    elif logit is None:
        status = "failed"
        failure = "missing_rows" if any(rows[at] is None for at in answer) else "not_finite"
    else:
        status = "scored" if np.isfinite(scores).all() else "partial"
    return Judgement(
        status,
        risk=None if logit is None else probe.calibration.risk(logit),
        logit=logit,
        spans=tuple(SpanRisk(span, _risk(probe, _pool(probe, scores, [span]))) for span in spans),
        token_scores=tuple(score_token(probe, row) for row in rows),
        signals=_signals(response, answer, logit),
        explain=_explain(probe, [rows[at] for at in answer]) if explains and logit is not None else None,
        failure=failure,
    )


def _token_rows(response: ModelResponse, probe: Probe) -> tuple[list[RowEvidence | None], NDArray[np.float64]]:
    """The row and the head score of each token [T]; None and nan where a row is missing."""
    n = len(response.tokens)
    rows = list(align_rows(response.rows, n, probe.position))
    rows += [None] * (n - len(rows))
    return rows, np.asarray([math.nan if row is None else row.scores[0] for row in rows], dtype=np.float64)


def _locate(response: ModelResponse, probe: Probe, question: str, locator: Locator) -> list[AnswerSpan]:
    n, name = len(response.tokens), _locator_name(probe, locator)
    if name == "response":
        return [AnswerSpan(0, n)] if n else []
    return locate_answer(question, response.text, response.offsets)


def _locator_name(probe: Probe, locator: Locator) -> str:
    return probe.locator if locator == "default" else locator


def _pool(probe: Probe, scores: NDArray[np.float64], spans: Sequence[AnswerSpan]) -> float | None:
    if not spans:
        return None
    logit = probe.pooled_logit(scores, spans)
    return logit if math.isfinite(logit) else None


def _risk(probe: Probe, logit: float | None) -> float | None:
    return None if logit is None else probe.calibration.risk(logit)


def _answer_tokens(spans: Sequence[AnswerSpan]) -> list[int]:
    return sorted({at for span in spans for at in range(span.start, span.end)})


def _signals(response: ModelResponse, answer: Sequence[int], logit: float | None) -> Signals:
    if not answer:
        return Signals(length=len(response.tokens))
    logprobs = np.asarray([response.tokens[at].logprob for at in answer], dtype=np.float64)
    entropies = np.asarray([response.tokens[at].entropy for at in answer], dtype=np.float64)
    return Signals(
        cett=logit,
        mean_logprob=finite(logprobs.mean()),
        min_logprob=finite(logprobs.min()),
        mean_entropy=finite(entropies.mean()),
        max_entropy=finite(entropies.max()),
        length=len(response.tokens),
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
