"""What every engine offers: evidence, step by step. All nouns that cross the engine's border live here.

An engine turns prompt token ids into rows and tokens. It knows no probe policy, no risk, no text and no HTTP.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from probes.fingerprint import ModelFingerprint
from probes.neurons import NeuronSet
from probes.positions import PositionRule
from probes.sampling import SamplingParams

FinishReason = Literal["stop", "length", "cancelled", "error"]


class EngineError(RuntimeError):
    """The engine failed while a request ran; the message is for the log, not for the client."""


class RequestTooLongError(ValueError):
    """Prompt and response together do not fit the model; the message is for the client."""


@dataclass(frozen=True)
class ResidualHeads:
    """What the heads of a bank read of the residual stream x, the output of one decoder layer."""

    layer: int
    """Counted from 0; x is read after it."""
    weights: NDArray[np.float32]
    """[N, D]; zero where a head does not read it."""


@dataclass(frozen=True)
class HeadBank:
    """The linear read-outs that an engine evaluates on every row.

    A row's score of head n is `sum_k weights[n, k] * CETT_k + sum_d residual.weights[n, d] * x_d`, without intercept.
    """

    names: tuple[str, ...]
    """One a head; `probe` is the served one."""
    neurons: NeuronSet
    """The union of the heads' selected neurons, K."""
    weights: NDArray[np.float32]
    """[N, K]; zero where a head does not use a neuron."""
    suppressed: NDArray[np.int64]
    """Positions in `neurons` of the served probe's H-neurons: what alpha scales."""
    position: PositionRule
    """Which rows the served probe needs; with `own` an engine feeds the last token once more when a response ends
    without an end-of-sequence token."""
    residual: ResidualHeads | None = None
    """None: no head reads the residual stream."""


class Heads(Protocol):
    """A head bank that an engine has loaded, as that engine keeps it."""

    @property
    def bank(self) -> HeadBank:
        """What was loaded."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One sequence to generate."""

    request_id: str
    prompt_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int | None = None
    """None: drawn by the engine."""
    alpha: float = 1.0
    is_scored: bool = True
    """Off: no taps read for this sequence, rows are None."""
    wants_neurons: bool = False
    """Carry each row's CETT of all K neurons (for `explain`)."""
    heads: Heads | None = None
    """None: the engine's default ones."""


@dataclass(frozen=True, slots=True)
class TokenEvidence:
    """A chosen token, with the free signals of the row that predicted it."""

    token_id: int
    logprob: float
    """Natural log-probability under the unscaled distribution (temperature 1, no top-k or top-p)."""
    entropy: float
    """Of that distribution over the full vocabulary, nats."""


@dataclass(frozen=True, slots=True)
class RowEvidence:
    """One fed row, r_k."""

    scores: tuple[float, ...]
    """One a head, in the order of `HeadBank.names`."""
    neurons: NDArray[np.float32] | None = None
    """CETT of the K neurons, where asked for."""


@dataclass(frozen=True, slots=True)
class EvidenceStep:
    """What one engine step adds to one request.

    Step k carries row r_k and the token that was chosen from it. The last step carries the finish reason and no token
    where it fed only the last own row or chose an end-of-sequence token.
    """

    row: RowEvidence | None
    """None: the request is not scored. For a scored request None means that the tap did not run: a failure."""
    token: TokenEvidence | None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class ScoredSequence:
    """A teacher-forced response: T tokens and their rows r_0 ... r_T."""

    tokens: tuple[TokenEvidence, ...]
    rows: tuple[RowEvidence, ...]
    """T + 1 rows."""


@dataclass(slots=True)
class RequestTiming:
    """Where one request's seconds went; filled by the engine while it runs."""

    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    scoring_seconds: float = 0.0


class Engine(Protocol):
    """A model with taps that generates and scores many sequences at once.

    All methods are called from one event loop. `generate` may be abandoned at any time (`aclose`): the sequence then
    leaves the batch before the next step.
    """

    kind: str
    """Name of the back end: `transformers`, `vllm`, `fake`."""
    model_name: str
    tokenizer: Any
    stop_token_ids: frozenset[int]
    max_model_len: int
    dtype: str
    device: str

    def fingerprint(self, name: str = "") -> ModelFingerprint:
        """What identifies the model to a probe; `name` is the reference it was loaded by."""

    def column_norms(self, neurons: NeuronSet) -> NDArray[np.float32]:
        """norm(W_down[:, j]) of these neurons in the model [K].

        Raises:
            ValueError: They are of a model of other widths.
        """

    async def start(self, expected: HeadBank | None = None) -> None:
        """Begin to serve; returns when the engine can take requests.

        Args:
            expected: Heads that will be loaded; an engine that prepares its taps beforehand makes room for them.
        """

    async def close(self) -> None:
        """Stop; running requests end with EngineError."""

    async def load_heads(self, bank: HeadBank, *, is_default: bool = True) -> Heads:
        """Load heads beside those in use; requests that run keep the heads they began with.

        Args:
            bank: The heads.
            is_default: Requests that name no heads get these from now on. Others are to be held at once.

        Raises:
            ValueError: The bank is not of this model, or does not fit.
            EngineError: The engine failed.
        """

    def hold_heads(self, heads: Heads) -> AbstractContextManager[None]:
        """These heads stay loaded within; else they may go once no running sequence uses them."""

    def generate(self, request: EngineRequest, timing: RequestTiming) -> AsyncIterator[EvidenceStep]:
        """Generate one sequence, a step at a time, under the heads that it names.

        Raises:
            RequestTooLongError: At once, before the first step.
            EngineError: The engine failed.
        """

    async def score(
        self,
        prompt_ids: Sequence[int],
        response_ids: Sequence[int],
        *,
        alpha: float = 1.0,
        wants_neurons: bool = False,
        heads: Heads | None = None,
    ) -> ScoredSequence:
        """One teacher-forced pass over prompt and response.

        Raises:
            RequestTooLongError: They do not fit the model.
            EngineError: The engine failed, or its tap did not run.
        """

    async def audit(
        self, prompt_ids: Sequence[int], response_ids: Sequence[int], *, heads: Heads | None = None
    ) -> tuple[ScoredSequence, ...]:
        """Score once on every copy of the model that answers requests; other requests come first where they can.

        Raises:
            EngineError: The engine failed, or its tap did not run.
        """
