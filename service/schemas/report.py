"""The guard object: what a client is told about a response's truth. Not scored is null, never 0."""

from probes.parts import Part
from service.guard.judgement import Status
from service.guard.policy import Action
from service.schemas.strict import Sent


class ProbeLabel(Sent):
    """Which probe said it."""

    name: str
    version: str
    sha256: str


class SignalsReport(Sent):
    """The parts over the answer tokens: those that go into the risk, and the others for comparison."""

    cett: float | None
    residual: float | None
    """Null where the probe has no residual head."""
    mean_logprob: float | None
    min_logprob: float | None
    mean_entropy: float | None
    max_entropy: float | None
    length: int | None
    """Answer tokens."""
    used: list[Part]
    """Which of them go into the risk."""


class SpanReport(Sent):
    """An answer span; `start` and `end` count code points of the text."""

    text: str | None
    start: int
    end: int
    token_start: int
    token_end: int
    risk: float | None


class NeuronReport(Sent):
    """A neuron's share of the logit."""

    layer: int
    neuron: int
    weight: float
    contribution: float


class TokenReport(Sent):
    """A token; `id` and `text` are null where the response is withheld."""

    i: int
    id: int | None
    text: str | None
    start: int
    end: int
    logprob: float | None
    entropy: float | None
    logit: float | None
    residual: float | None
    risk: float | None
    is_answer: bool | None
    """Null in a stream: the answer is located once the response is whole."""
    explain: list[NeuronReport] | None
    """The neurons that say most of this token; null unless `guard.explain` asks for them."""


class SuppressionReport(Sent):
    """Both responses of policy `suppress`."""

    alpha: float
    baseline_risk: float | None
    risk: float | None
    """Of the second response, generated with `alpha`."""
    kept: str
    """`baseline` or `suppressed`: which one is served."""


class GuardReport(Sent):
    """The guard object."""

    status: Status
    risk: float | None
    logit: float | None
    threshold: float
    action: Action
    signals: SignalsReport
    out_of_domain: bool | None
    """Whether the signals lie outside those of the training rows. The risk stays as calculated, but is not to be relied
    on. Null where nothing was scored."""
    probe: ProbeLabel
    alpha: float
    spans: list[SpanReport] | None
    tokens: list[TokenReport] | None
    explain: list[NeuronReport] | None
    suppressed: SuppressionReport | None
