"""ModelResponse: what the guard judges, whichever engine made it and whether it was generated or teacher-forced."""

from dataclasses import dataclass

from probes.positions import PositionRule, rows_needed
from probes.spans import Decoder, TextStream
from service.engines.base import RowEvidence, ScoredSequence


@dataclass(frozen=True, slots=True)
class ResponseToken:
    """A token of the response with its place in the text and the free signals of the row that predicted it."""

    token_id: int
    text: str
    """What became readable with this token; the texts of all tokens joined are the text of the response. Empty while a
    character is incomplete: the token that completes it carries it."""
    start: int
    """First code point that the token has a part in."""
    end: int
    logprob: float
    entropy: float


@dataclass(frozen=True, slots=True)
class ModelResponse:
    """A response, or the first tokens of one that grows."""

    text: str
    tokens: tuple[ResponseToken, ...]
    rows: tuple[RowEvidence | None, ...]
    """r_0, r_1, ...; None where the tap did not run. Fewer than the position rule needs if the engine stopped early."""

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Code-point range of each token."""
        return [(token.start, token.end) for token in self.tokens]


def read_scored(tokenizer: Decoder, scored: ScoredSequence, text: str | None, rule: PositionRule) -> ModelResponse:
    """The response of a teacher-forced pass.

    Args:
        tokenizer: Of the model.
        scored: Tokens and rows.
        text: Where the text ends before its last token does (a stop string was cut off), the text; else None.
        rule: The probe's position rule.
    """
    stream = TextStream(tokenizer)
    pieces = [stream.push(token.token_id) for token in scored.tokens]
    if pieces:
        pieces[-1] += stream.finish()
    whole = stream.text if text is None else text
    at, tokens = 0, []
    for piece, token, (start, end) in zip(pieces, scored.tokens, stream.offsets, strict=True):
        kept = whole[at : at + len(piece)]
        at += len(piece)
        ends = min(end, len(whole))
        tokens.append(ResponseToken(token.token_id, kept, start, ends, token.logprob, token.entropy))
    return ModelResponse(whole, tuple(tokens), tuple(scored.rows[: rows_needed(rule, len(tokens))]))
