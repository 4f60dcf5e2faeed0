"""Report: a judgement in the words of the HTTP contract. Decides nothing; withholds what the action says."""

from collections.abc import Sequence

from probes.artifact import ProbeArtifact
from service.choices.plan import GuardPlan
from service.guard.judge import finite
from service.guard.judgement import Judgement, NeuronShare, TokenScore
from service.guard.policy import WITHHELD, Action
from service.guard.response import ModelResponse, ResponseToken
from service.schemas.report import (
    GuardReport,
    NeuronReport,
    ProbeLabel,
    SignalsReport,
    SpanReport,
    SuppressionReport,
    TokenReport,
)


def report_guard(
    artifact: ProbeArtifact,
    plan: GuardPlan,
    response: ModelResponse,
    judgement: Judgement,
    *,
    action: Action,
    alpha: float,
    suppressed: SuppressionReport | None = None,
) -> GuardReport:
    """The guard object of one response."""
    signals = judgement.signals
    is_withheld = action in WITHHELD
    return GuardReport(
        status=judgement.status,
        risk=judgement.risk,
        logit=judgement.logit,
        threshold=plan.threshold,
        action=action,
        signals=SignalsReport(
            cett=signals.cett,
            residual=signals.residual,
            mean_logprob=signals.mean_logprob,
            min_logprob=signals.min_logprob,
            mean_entropy=signals.mean_entropy,
            max_entropy=signals.max_entropy,
            length=signals.length,
            used=list(artifact.probe.risk_model.weights),
        ),
        out_of_domain=judgement.out_of_domain,
        probe=ProbeLabel(name=artifact.probe.name, version=artifact.probe.version, sha256=artifact.sha256),
        alpha=alpha,
        spans=report_spans(response, judgement, is_withheld=is_withheld) if plan.shows_spans else None,
        tokens=report_tokens(response, judgement, is_withheld=is_withheld) if plan.shows_tokens else None,
        explain=report_neurons(judgement.explain),
        suppressed=suppressed,
    )


def report_spans(response: ModelResponse, judgement: Judgement, *, is_withheld: bool) -> list[SpanReport]:
    """The answer spans."""
    spans = []
    for part in judgement.spans:
        start, end = response.tokens[part.span.start].start, response.tokens[part.span.end - 1].end
        text = response.text[start:end]
        start += len(text) - len(text.lstrip())  # a token often begins with the space before its word
        spans.append(
            SpanReport(
                text=None if is_withheld else text.strip(),
                start=start,
                end=start + len(text.strip()),
                token_start=part.span.start,
                token_end=part.span.end,
                risk=part.risk,
            )
        )
    return spans


def report_neurons(shares: Sequence[NeuronShare] | None) -> list[NeuronReport] | None:
    """The neurons that say most."""
    if shares is None:
        return None
    return [
        NeuronReport(layer=share.layer, neuron=share.neuron, weight=share.weight, contribution=share.contribution)
        for share in shares
    ]


def report_tokens(response: ModelResponse, judgement: Judgement, *, is_withheld: bool) -> list[TokenReport]:
    """All tokens."""
    pairs = zip(response.tokens, judgement.token_scores, strict=True)
    reports = [
        report_token(at, token, score, is_answer=judgement.is_answer(at)) for at, (token, score) in enumerate(pairs)
    ]
    return [report.model_copy(update={"id": None, "text": None}) for report in reports] if is_withheld else reports


def report_token(at: int, token: ResponseToken, score: TokenScore, *, is_answer: bool | None) -> TokenReport:
    """One token; numbers that are not finite become null."""
    return TokenReport(
        i=at,
        id=token.token_id,
        text=token.text,
        start=token.start,
        end=token.end,
        logprob=finite(token.logprob),
        entropy=finite(token.entropy),
        logit=score.logit,
        residual=score.residual,
        risk=score.risk,
        is_answer=is_answer,
        explain=report_neurons(score.explain),
    )
