"""A fake engine: made-up but repeatable tokens, scores and faults, for tests of timing and failure. It has no model.

Tokens are the bytes of a fixed reply. A row's CETT depends on the fed token, its position and the neuron only, so a
generated and a teacher-forced response have equal scores. Never chosen unless asked for by name.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from probes.fingerprint import ModelFingerprint
from probes.neurons import NeuronSet
from service.engines.base import (
    EngineError,
    EngineRequest,
    EvidenceStep,
    HeadBank,
    Heads,
    RequestTiming,
    RowEvidence,
    ScoredSequence,
    TokenEvidence,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Fault = Literal["none", "missing_rows", "short_rows", "nan_scores", "crash", "hang"]

FAKE_MODEL = ModelFingerprint(
    "Fake", (8, 8), hidden_size=8, vocabulary_size=257, tokenizer_sha256="", chat_template_sha256=""
)
REPLY = "The answer is Paris."
_CHAT_TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "


def fake_tokenizer() -> "PreTrainedTokenizerFast":
    """A transformers tokenizer whose tokens are the 256 bytes, and `<eos>`: id 256."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: at for at, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE({**vocabulary, "<eos>": 256}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", chat_template=_CHAT_TEMPLATE)  # noqa: S106


def fake_cett(token_id: int, position: int, n_neurons: int) -> NDArray[np.float32]:
    """CETT [K] of a row, in [0, 1)."""
    neuron = np.arange(n_neurons)
    return np.asarray((token_id * 31 + position * 17 + neuron * 13) % 101 / 101, dtype=np.float32)


def fake_stream(token_id: int, position: int) -> NDArray[np.float32]:
    """Residual stream [D] of a row after any layer, in [-1, 1)."""
    at = np.arange(FAKE_MODEL.hidden_size)
    return np.asarray((token_id * 7 + position * 29 + at * 11) % 103 / 51.5 - 1, dtype=np.float32)


@dataclass(frozen=True)
class FakeHeads:
    """A bank that is loaded as it is."""

    bank: HeadBank


class FakeEngine:
    """An `Engine` without a model."""

    kind = "fake"

    def __init__(
        self,
        *,
        step_seconds: float = 0.0,
        fault: Fault = "none",
        fault_at: int = 3,
        reply: Callable[[EngineRequest], str] | None = None,
        max_model_len: int = 4096,
    ) -> None:
        """Make one.

        Args:
            step_seconds: How long a step takes.
            fault: What goes wrong.
            fault_at: From which step on.
            reply: Request -> text of the response; None: always the same.
            max_model_len: Tokens of prompt and response together at most.
        """
        self.model_name, self.dtype, self.device = "fake", "float32", "cpu"
        self.tokenizer = fake_tokenizer()
        self.stop_token_ids = frozenset({int(self.tokenizer.eos_token_id)})
        self.max_model_len = max_model_len
        self.step_seconds, self.fault, self.fault_at = step_seconds, fault, fault_at
        self.running = 0
        """Sequences that hold a slot."""
        self.steps_total = 0
        self._reply = reply or (lambda _: REPLY)
        self._heads: Heads | None = None

    def fingerprint(self, name: str = "") -> ModelFingerprint:  # noqa: ARG002 - it has one model
        """Of the model that it does not have."""
        return FAKE_MODEL

    def column_norms(self, neurons: NeuronSet) -> NDArray[np.float32]:
        """Ones [K]."""
        return np.ones(len(neurons), dtype=np.float32)

    async def start(self, expected: HeadBank | None = None) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to stop."""

    async def load_heads(self, bank: HeadBank, *, is_default: bool = True) -> Heads:
        """Take over the heads."""
        heads = FakeHeads(bank)
        if is_default:
            self._heads = heads
        return heads

    def hold_heads(self, heads: Heads) -> AbstractContextManager[None]:  # noqa: ARG002 - it has room for all
        """Nothing to do: whoever has the heads keeps them."""
        return nullcontext()

    async def generate(self, request: EngineRequest, timing: RequestTiming) -> AsyncIterator[EvidenceStep]:
        """Generate the reply, a byte a step."""
        bank = self._bank(request.heads)
        ids = self.tokenizer(self._reply(request), add_special_tokens=False).input_ids
        feeds_last = request.is_scored and bank.position == "own"
        fed, start = request.prompt_ids[-1], len(request.prompt_ids) - 1
        self.running += 1
        try:
            for at in range(request.max_tokens + 1):
                await self._step(at)
                timing.decode_seconds += self.step_seconds
                row = self._row(bank, fed, start + at, at, request) if request.is_scored else None
                if at == request.max_tokens or at == len(ids):
                    yield EvidenceStep(row, None, "stop" if at == len(ids) else "length")
                    return
                is_last = at + 1 == request.max_tokens and not feeds_last
                yield EvidenceStep(row, _evidence(ids[at], start + at), "length" if is_last else None)
                if is_last:
                    return
                fed = ids[at]
        finally:
            self.running -= 1

    async def score(
        self,
        prompt_ids: Sequence[int],
        response_ids: Sequence[int],
        *,
        alpha: float = 1.0,
        wants_neurons: bool = False,
        heads: Heads | None = None,
    ) -> ScoredSequence:
        """Score in one step; a missing row is an error here."""
        bank = self._bank(heads)
        request = EngineRequest("score", tuple(prompt_ids), 1, alpha=alpha, wants_neurons=wants_neurons)
        start = len(prompt_ids) - 1
        fed = [prompt_ids[-1], *response_ids]
        self.running += 1
        try:
            await self._step(self.fault_at)
            rows = [self._row(bank, token, start + at, at, request) for at, token in enumerate(fed)]
        finally:
            self.running -= 1
        present = tuple(row for row in rows if row is not None)
        if len(present) < len(rows):
            raise EngineError("the tap did not run")
        return ScoredSequence(tuple(_evidence(token, start + at) for at, token in enumerate(response_ids)), present)

    async def audit(
        self, prompt_ids: Sequence[int], response_ids: Sequence[int], *, heads: Heads | None = None
    ) -> tuple[ScoredSequence, ...]:
        """Score; there is one copy of the model."""
        return (await self.score(prompt_ids, response_ids, heads=heads),)

    def _bank(self, named: Heads | None) -> HeadBank:
        heads = named or self._heads
        assert heads is not None, "load_heads comes first"
        return heads.bank

    async def _step(self, at: int) -> None:
        await asyncio.sleep(self.step_seconds)
        self.steps_total += 1
        if self.fault == "crash" and at >= self.fault_at:
            raise EngineError("the fake engine was told to crash")
        if self.fault == "hang" and at >= self.fault_at:
            await asyncio.Event().wait()

    def _row(self, bank: HeadBank, fed: int, position: int, at: int, request: EngineRequest) -> RowEvidence | None:
        is_faulty = at >= self.fault_at
        if is_faulty and self.fault == "missing_rows":
            return None
        cett = fake_cett(fed, position, len(bank.neurons))
        scores = bank.weights @ cett
        if bank.residual is not None:
            scores = scores + bank.residual.weights @ fake_stream(fed, position)
        if is_faulty and self.fault == "nan_scores":
            scores = np.full_like(scores, np.nan)
        if is_faulty and self.fault == "short_rows":  # no score at all: whoever reads the first one raises
            scores = scores[:0]
        return RowEvidence(tuple(map(float, scores)), cett if request.wants_neurons else None)


def _evidence(token_id: int, position: int) -> TokenEvidence:
    return TokenEvidence(token_id, -0.01 - (token_id * 7 + position) % 13 / 10, (token_id * 3 + position) % 7 / 5)
