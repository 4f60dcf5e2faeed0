"""Answer spans: which of a response's own tokens carry the factual claim, and where each token stands in the text.

    response token ids -> `token_offsets` -> code-point ranges -> `char_span_to_tokens` -> AnswerSpan

Offsets come from decoding the very ids that the model produced; text is never tokenised again, because the same words
can be cut into other tokens. `locate_answer` is what the service and the training features both use, for right and
wrong answers alike: it sees the question and the response, never a label or an accepted answer.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol

from probes.claims import ClaimReader

Offset = tuple[int, int]
"""Half-open range of code points of the decoded text."""

_BROKEN = "\ufffd"  # what decoders write for bytes that are no whole character (yet)


@dataclass(frozen=True, slots=True)
class AnswerSpan:
    """Half-open range [start, end) of a response's tokens."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"answer span [{self.start}, {self.end}): need 0 <= start < end")

    def __len__(self) -> int:
        return self.end - self.start


class Decoder(Protocol):
    """What is needed of a tokenizer; every transformers tokenizer has it."""

    def decode(
        self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool
    ) -> str | list[str]:
        """Return the text of token ids."""


class TextStream:
    """Decodes a response token by token, so that text and offsets grow together at a constant cost a token.

    Only tokens since the last whole character are decoded again; a response of nothing but broken bytes is the one that
    costs more.
    """

    def __init__(self, tokenizer: Decoder) -> None:
        """Start an empty response.

        Args:
            tokenizer: the tokenizer of the model that makes the response.
        """
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0
        """First token of the decoded window. The window starts with a token that has text, because a tokenizer with
        SentencePiece conventions drops the leading space of whatever it decodes first."""
        self._read = 0
        """Tokens before this one are settled: their text will not change."""
        self._text: list[str] = []
        self._settled = 0
        self._partial = 0
        self.offsets: list[Offset] = []
        """One range a token. Neighbouring ranges meet; they overlap in one code point where tokens share a character,
        and are empty for special tokens. The last few can still grow while a character is incomplete."""

    @property
    def text(self) -> str:
        """The settled text; after `finish`, the text of all tokens."""
        return "".join(self._text)

    def push(self, token_id: int) -> str:
        """Add one token.

        Args:
            token_id: the next token of the response.

        Returns:
            The text that has become settled; "" while a character is incomplete.
        """
        self._ids.append(token_id)
        fresh = self._decode_fresh()
        whole = fresh.rstrip(_BROKEN)
        is_broken = len(whole) < len(fresh)
        start = self._settled + self._partial
        self._partial = len(whole) if is_broken else len(fresh)
        end = self._settled + self._partial + is_broken
        # A token that completes a character began inside it, one code point before what was whole until then.
        self.offsets.append((min(start, end), end))
        return "" if is_broken else self._settle(fresh)

    def finish(self) -> str:
        """Settle an incomplete character at the end of the response; returns its text, as replacement characters."""
        if self._read == len(self._ids):
            return ""
        fresh = self._decode_fresh()
        start, _ = self.offsets[-1]
        self.offsets[-1] = (start, self._settled + len(fresh))
        return self._settle(fresh)

    def _decode_fresh(self) -> str:
        before = self._decode(self._ids[self._context : self._read])
        return self._decode(self._ids[self._context :])[len(before) :]

    def _settle(self, fresh: str) -> str:
        if fresh:
            self._context = self._read
        self._read = len(self._ids)
        self._text.append(fresh)
        self._settled += len(fresh)
        self._partial = 0
        return fresh

    def _decode(self, token_ids: list[int]) -> str:
        if not token_ids:
            return ""
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str), "a flat list of token ids decodes to one text"
        return text


def token_offsets(tokenizer: Decoder, token_ids: Iterable[int]) -> list[Offset]:
    """Find where each token of a response stands in the decoded text.

    Args:
        tokenizer: the tokenizer of the model that made the response.
        token_ids: the response's own tokens, T of them.

    Returns:
        T code-point ranges of `decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)`. Every
        code point is covered; a character that several tokens share is in the range of each.
    """
    stream = TextStream(tokenizer)
    for token_id in token_ids:
        stream.push(token_id)
    stream.finish()
    return stream.offsets


def char_span_to_tokens(offsets: Sequence[Offset], start: int, end: int) -> AnswerSpan | None:
    """Find the tokens that hold any code point of a range.

    Args:
        offsets: one range a token, see `token_offsets`; neither their starts nor their ends ever go back.
        start: first code point.
        end: one past the last code point.

    Returns:
        The smallest token range that covers the code points, or None if no token holds any of them.
    """
    first = bisect_right(offsets, start, key=itemgetter(1))
    end_at = bisect_left(offsets, end, key=itemgetter(0))
    return AnswerSpan(first, end_at) if first < end_at else None


class AnswerLocator:
    """Finds the answer tokens of a response that grows without knowing what is right: each sentence's novel words."""

    def __init__(self, question: str) -> None:
        """Read the question.

        Args:
            question: what was asked, as text; an instruction such as "answer only" may be part of it.
        """
        self._claims = ClaimReader(question)

    @property
    def has_settled(self) -> bool:
        """Whether the first span is one that no later token can change."""
        return bool(self._claims.settled)

    def locate(self, response_text: str, offsets: Sequence[Offset]) -> list[AnswerSpan]:
        """Find the spans.

        Args:
            response_text: the decoded response so far; it begins with the one of the last call.
            offsets: one range a token of that text, see `token_offsets`.

        Returns:
            At most one span a sentence, in reading order and disjoint; empty where nothing is claimed (a refusal, an
            echo of the question, no words).
        """
        spans: list[AnswerSpan] = []
        for start, end in self._claims.read(response_text):
            span = char_span_to_tokens(offsets, start, end)
            # One token can hold the end of a sentence and the start of the next.
            if span is not None and (not spans or span.start >= spans[-1].end):
                spans.append(span)
        return spans


def locate_answer(question: str, response_text: str, offsets: Sequence[Offset]) -> list[AnswerSpan]:
    """Find the answer tokens of a whole response, as `AnswerLocator.locate` does."""
    return AnswerLocator(question).locate(response_text, offsets)
