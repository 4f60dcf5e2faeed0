"""What a probe's numbers mean, in sentences; every one of them is made from the card and the evaluated rows.

A difference counts as a gain only where its whole interval is above 0, and as nothing where the interval holds 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from offline.evaluation.evaluate import FREE, PROBE, QUESTION, SERVED
from offline.metrics import Interval
from offline.report_parts.slices import Slice
from probes.artifact import ProbeArtifact

SPLIT_NAMES = {
    "test": "consistent test answers",
    "unfiltered-test": "unfiltered test answers",
    "domain": "answers of other domains",
}
SUBSTANTIAL = 0.2
"""Rank correlation with length from which it is told."""


def name_split(split: str) -> str:
    """What the page calls a split."""
    return SPLIT_NAMES.get(split, split)


def describe(artifact: ProbeArtifact) -> list[str]:
    """What the probe is, for which model, and how it was made."""
    probe, model, card = artifact.probe, artifact.model, artifact.card
    training = card["training"]
    rows = training["rows"]["train"]
    others = [part for part in probe.risk_model.weights if part != "cett"]
    made_of = f" Combined with {', '.join(others)} of the same tokens, this" if others else " This"
    pieces = [
        f"{probe.name} {probe.version} estimates how likely an answer of the model "
        f"{model.name or model.architecture} ({model.architecture}, {len(model.widths)} layers) is a "
        "hallucination. It holds for no other model.",
        f"While the model answers, it reads {len(probe.neurons):,} of the {probe.neurons.total:,} feed-forward "
        f"neurons; {len(probe.h_neurons)} of them ({probe.per_mille:.3g} per mille) are H-neurons, whose "
        "activity speaks for a hallucination."
        + (made_of if "cett" in probe.risk_model.weights else " The risk, though, is made of other parts; it")
        + " gives a risk between 0 and 1.",
        f"It was trained on {rows.get('faithful', 0):,} faithful and {rows.get('hallucinated', 0):,} hallucinated "
        f"answers to questions of {', '.join(training['sources'])}, kept where at least {training['agreement']:.0%} of "
        f"the model's samples agreed with the verdict, and labelled by the judge {training['judge']}. "
        f"Answer strings shared between training and test: {training['shared_answers_train_test']}.",
    ]
    return pieces


def reached(evidence: Mapping[str, Any], threshold: float) -> Iterator[str]:
    """What the risk and the probe reach on one split: only what the whole interval bears out.

    Args:
        evidence: The card's, of the split.
        threshold: The probe's.
    """
    rows, auroc = evidence["rows"], _interval(evidence["methods"][SERVED]["auroc"])
    total = rows["faithful"] + rows["hallucinated"]
    yield (
        f"Of {total:,} answers {rows['hallucinated'] / total:.0%} are hallucinated. A hallucinated one has the higher "
        f"risk than a faithful one in {auroc.value:.0%} of pairs: AUROC {auroc}."
    )
    ece, accuracy = _interval(evidence["risk"]["ece"]), _interval(evidence["risk"]["accuracy_at_threshold"])
    yield (
        f"A risk is off by {ece.value:.1%} on average (expected calibration error {ece}); flagging from "
        f"{threshold:.3f} on is right in {accuracy} of cases."
    )
    for name, difference in _differences(evidence):
        if difference.low > 0:
            yield f"{name}: {judge(difference)}"


def missed(
    evidence: Mapping[str, Any],
    leads: Mapping[str, Interval],
    sources: Sequence[Slice],
    correlations: Mapping[str, Interval],
) -> Iterator[str]:
    """What they do not reach on one split.

    Args:
        evidence: The card's, of the split.
        leads: Method -> AUROC of the served risk minus that of the method.
        sources: Slices by source.
        correlations: Class -> rank correlation of the risk with the response's length.
    """
    asked, risk = (_interval(evidence["methods"][name]["auroc"]) for name in (QUESTION, SERVED))
    yield f"A probe that sees the question alone, before any answer, reaches AUROC {asked}.{_share(asked, risk)}"
    for name, difference in _differences(evidence):
        if difference.low <= 0:
            yield f"{name}: {judge(difference)}"
    lost = [name for name, lead in leads.items() if lead.low <= 0]
    if lost:
        yield f"The risk is not shown to rank better than: {', '.join(lost)}."
    yield from _weak_sources(sources)
    for name, rho in correlations.items():
        if abs(rho.value) >= SUBSTANTIAL and (rho.low > 0 or rho.high < 0):
            way = "rises" if rho.value > 0 else "falls"
            yield (
                f"The risk {way} with the length of {name} answers (rank correlation {rho}): part of it may be length "
                "and not truth."
            )
    for budget in evidence["budgets"]:
        over = _interval(budget["faithful"])
        if over.low > budget["fpr"]:
            yield (
                f"The threshold for a budget of {budget['fpr']:.0%} false alarms flags {over} of the faithful answers: "
                "more than the budget."
            )


def left_out(artifact: ProbeArtifact) -> list[str]:
    """Parts that the risk goes without."""
    return [step["part"] for step in artifact.card["risk"]["elimination"] if step["removed"]]


def missed_domains(domains: Sequence[Slice]) -> Iterator[str]:
    """What is not reached on rows of other domains."""
    if not domains:
        yield "Nothing is known of other domains: the run asked no questions of any (--domains)."
        return
    yield from _weak_sources(domains)
    unjudged = [s.name for s in domains if not s.auroc]
    if unjudged:
        yield f"Too few rows of a class to judge: {', '.join(unjudged)}."
    behind = [s.name for s in domains if s.auroc and s.auroc[SERVED].value <= s.auroc[FREE].value]
    if behind:
        yield f"The free signals together rank at least as well as the risk in: {', '.join(behind)}."


def _weak_sources(slices: Sequence[Slice]) -> Iterator[str]:
    blind = [s.name for s in slices if s.auroc and s.auroc[SERVED].low <= 0.5]
    if blind:
        yield f"The risk is not shown to be better than chance for: {', '.join(blind)}."
    judged = [s for s in slices if s.auroc and s.name not in blind]
    if len(judged) > 1:
        worst = min(judged, key=lambda s: s.auroc[SERVED].value)
        yield f"The risk is weakest for {worst.name}: AUROC {worst.auroc[SERVED]}."


def _differences(evidence: Mapping[str, Any]) -> Iterator[tuple[str, Interval]]:
    for name, triple in evidence["differences"].items():
        first, _, second = name.partition(" over ")
        if first in (SERVED, PROBE):
            yield f"{first.capitalize() if first.islower() else first} against {second}", _interval(triple)


def judge(difference: Interval) -> str:
    """A difference in words."""
    if difference.low > 0:
        return f"better by {difference} AUROC."
    if difference.high < 0:
        return f"worse, {difference} AUROC."
    return f"no difference shown, {difference} AUROC."


def _share(asked: Interval, risk: Interval) -> str:
    """How much of the risk's AUROC above chance the question alone gives."""
    if min(asked.value, risk.value) <= 0.5:
        return ""
    share = (asked.value - 0.5) / (risk.value - 0.5)
    return (
        f" That is {share:.0%} of what the risk has above chance: how hard the question is for this model, and not "
        "whether this answer is true."
    )


def _interval(triple: Sequence[Any]) -> Interval:
    return Interval(*map(float, triple))
