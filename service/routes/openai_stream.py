"""OpenAI's stream forms: unnamed `data:` lines, never an empty `choices`, and `[DONE]` only after a whole answer.

The loops of OpenAI's clients read `chunk.choices[0]` of every chunk, so the token counts come in the last finish chunk
and not, as OpenAI sends them, in a chunk without choices. After an error there is no `[DONE]`: who skips what it does
not know must not take the stream for whole.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from sse_starlette import ServerSentEvent

from service.answering.openai_form import finish_reason, guard_of, write_columns, write_logprobs
from service.choices.choice import Outcome
from service.routes.stream import sse
from service.schemas.error import ErrorResponse
from service.schemas.generate import Choice, GenerateResponse, Usage
from service.schemas.openai_answer import ChatChunk, ChunkChoice, Delta, ProviderFields, TextChoice, TextCompletion
from service.schemas.report import GuardReport, TokenReport
from service.schemas.stream import StartEvent, TokenEvent

DONE = "[DONE]"


Part = TypeVar("Part", ChunkChoice, TextChoice)


class _Chunks(ABC, Generic[Part]):
    """What both forms do; they differ in how a part of an answer looks."""

    def __init__(self, n: int, *, wants_logprobs: bool, includes_usage: bool) -> None:
        """Begin a stream.

        Args:
            n: Choices.
            wants_logprobs: Chunks carry their token's log-probability and risk.
            includes_usage: The last finish chunk carries the token counts.
        """
        self._n, self._wants_logprobs, self._includes_usage = n, wants_logprobs, includes_usage
        self._start: StartEvent | None = None

    def start(self, event: StartEvent) -> list[ServerSentEvent]:
        """Keep what every chunk repeats."""
        self._start = event
        return []

    def token(self, event: TokenEvent) -> list[ServerSentEvent]:
        """The token's text."""
        return [self._chunk(self._part(event.index, event.text or "", [event] if self._wants_logprobs else None))]

    def judged(self, outcome: Outcome) -> list[ServerSentEvent]:
        """What stands in for a withheld text."""
        choice = outcome.choice
        return [self._chunk(self._part(choice.index, choice.text))] if outcome.is_withheld and choice.text else []

    def done(self, answer: GenerateResponse) -> list[ServerSentEvent]:
        """A finish chunk a choice: only now is it certain that the request succeeded."""
        usage = answer.usage if self._includes_usage else None
        *others, last = answer.choices
        return [*(self._finish(choice) for choice in others), self._finish(last, usage), sse(DONE)]

    def failed(self, error: ErrorResponse) -> list[ServerSentEvent]:
        """The error envelope, which OpenAI's clients raise."""
        return [sse(error)]

    def _finish(self, choice: Choice, usage: Usage | None = None) -> ServerSentEvent:
        guard = guard_of(choice)
        ending = {"finish_reason": finish_reason(choice), "guard": guard}
        part = self._part(choice.index, "").model_copy(update=ending)
        return self._chunk(part, usage, guard if choice.index == 0 else None)

    @abstractmethod
    def _part(self, index: int, text: str, tokens: Sequence[TokenReport] | None = None) -> Part:
        """What a chunk adds to one choice."""

    @abstractmethod
    def _chunk(self, part: Part, usage: Usage | None = None, guard: GuardReport | None = None) -> ServerSentEvent:
        """One `data:` line."""


class ChatChunks(_Chunks[ChunkChoice]):
    """The stream of /v1/chat/completions."""

    def start(self, event: StartEvent) -> list[ServerSentEvent]:
        """Whose turn it is, once a choice."""
        super().start(event)
        delta = Delta(role="assistant", content="")
        return [self._chunk(ChunkChoice(index=index, delta=delta)) for index in range(self._n)]

    def judged(self, outcome: Outcome) -> list[ServerSentEvent]:
        """What stands in for a withheld text, then the guard object where gateways pass it on."""
        choice = outcome.choice
        delta = Delta(content="", provider_specific_fields=ProviderFields(guard=guard_of(choice)))
        return [*super().judged(outcome), self._chunk(ChunkChoice(index=choice.index, delta=delta))]

    def _part(self, index: int, text: str, tokens: Sequence[TokenReport] | None = None) -> ChunkChoice:
        logprobs = None if tokens is None else write_logprobs(tokens)
        return ChunkChoice(index=index, delta=Delta(content=text), logprobs=logprobs)

    def _chunk(
        self, part: ChunkChoice, usage: Usage | None = None, guard: GuardReport | None = None
    ) -> ServerSentEvent:
        start = self._start
        assert start is not None
        return sse(
            ChatChunk(id=start.id, created=start.created, model=start.model, choices=[part], usage=usage, guard=guard)
        )


class TextChunks(_Chunks[TextChoice]):
    """The stream of /v1/completions: its chunks have the shape of the answer."""

    def _part(self, index: int, text: str, tokens: Sequence[TokenReport] | None = None) -> TextChoice:
        return TextChoice(index=index, text=text, logprobs=None if tokens is None else write_columns(tokens))

    def _chunk(self, part: TextChoice, usage: Usage | None = None, guard: GuardReport | None = None) -> ServerSentEvent:
        start = self._start
        assert start is not None
        return sse(
            TextCompletion(
                id=start.id, created=start.created, model=start.model, choices=[part], usage=usage, guard=guard
            )
        )
