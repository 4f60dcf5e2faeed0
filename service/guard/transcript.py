"""Transcript: one response while it is generated. Evidence steps in; text, stop strings and releasable tokens out.

A JSON answer and a stream read the same transcript, so they cannot differ. Knows no risk and no policy.
"""

from collections.abc import Sequence

from probes.positions import PositionRule, first_row, rows_needed
from probes.spans import Decoder, TextStream
from service.engines.base import EvidenceStep, FinishReason, RowEvidence, TokenEvidence
from service.guard.response import ModelResponse, ResponseToken


class Transcript:
    """Grows by `add`; is whole once `finish_reason` is set."""

    def __init__(
        self,
        tokenizer: Decoder,
        stop: Sequence[str],
        rule: PositionRule | None,
        *,
        needs: PositionRule | None = None,
    ) -> None:
        """Begin an empty response.

        Args:
            tokenizer: Of the model.
            stop: Strings that end the response; the text is cut before the first of them.
            rule: The probe's position rule; None where the response is not scored and no row is waited for.
            needs: The rule that says which rows a whole response has, where a shadow needs one more; None: `rule`.
        """
        self.finish_reason: FinishReason | None = None
        self._stream = TextStream(tokenizer)
        self._stop = tuple(stop)
        self._rule: PositionRule | None = rule
        self._needs: PositionRule | None = needs or rule
        self._tokens: list[TokenEvidence] = []
        self._rows: list[RowEvidence | None] = []
        self._text = ""
        self._ends: list[int] = []
        """Length of the readable text after each token."""
        self._cut: int | None = None
        """Where the stop string begins."""
        self._n_ready = 0
        self._made: list[ResponseToken] = []
        """The tokens that were ready when the response was read."""

    def add(self, step: EvidenceStep) -> None:
        """Take in what the engine sent; the caller closes the engine's iterator once `finish_reason` is set."""
        self._rows.append(step.row)
        if step.token is not None and self._cut is None:
            self._tokens.append(step.token)
            self._append(self._stream.push(step.token.token_id))
            self._ends.append(len(self._text))
        if self._cut is not None:
            # The row of the last kept token may be one step away.
            if step.finish_reason is not None or len(self._rows) >= self._rows_needed(self.n_kept):
                self.finish_reason = "stop"
        elif step.finish_reason is not None:
            self._finish(step.finish_reason)

    @property
    def n_kept(self) -> int:
        """Tokens of the response so far; those wholly past the cut are not."""
        if self._cut is None:
            return len(self._tokens)
        starts = (start for start, _ in self._stream.offsets)
        return next((at for at, start in enumerate(starts) if start >= self._cut), len(self._tokens))

    @property
    def n_ready(self) -> int:
        """Tokens that may be shown: whole, not part of a possible stop string, and with the row that scores them."""
        if self.finish_reason is not None:
            return self.n_kept
        scored = len(self._rows) - first_row(self._rule) if self._rule else len(self._tokens)
        limit = min(scored, self.n_kept)
        safe = len(self._text) - self._pending() if self._cut is None else self._cut
        offsets = self._stream.offsets
        # A token that is empty or ends at the border waits: the next piece of text may turn out to be a stop string.
        while self._n_ready < limit and offsets[self._n_ready][0] < safe and offsets[self._n_ready][1] <= safe:
            self._n_ready += 1
        if self._cut is not None and limit == self.n_kept:
            self._n_ready = limit
        return self._n_ready

    def stop_after(self, n_tokens: int) -> None:
        """End the response after this many tokens."""
        if n_tokens < self.n_kept:
            self._cut = None
            self._text = self._text[: self._ends[n_tokens - 1]]
            del self._tokens[n_tokens:]
            self._made.clear()  # the last ones may have stood for a character that is cut off now
        self.finish_reason = "stop"

    def token(self, at: int) -> ResponseToken:
        """One token, its text cut where the response is."""
        if at < len(self._made):
            return self._made[at]
        evidence, (start, end) = self._tokens[at], self._stream.offsets[at]
        text = self._text[self._ends[at - 1] if at else 0 : self._ends[at]]
        limit = len(self._text) if self.finish_reason or self._cut is not None else end
        return ResponseToken(evidence.token_id, text, start, min(end, limit), evidence.logprob, evidence.entropy)

    def row(self, at: int) -> RowEvidence | None:
        """The row that scores token `at`; None where it did not come."""
        if self._rule is None:
            return None
        index = at + first_row(self._rule)
        return self._rows[index] if index < len(self._rows) else None

    def response(self, n_tokens: int | None = None) -> ModelResponse:
        """The response, or its first tokens."""
        n = self.n_kept if n_tokens is None else n_tokens
        text = self._text if n == self.n_kept else self._text[: self._ends[n - 1] if n else 0]
        for at in range(len(self._made), min(n, self._n_ready)):
            self._made.append(self.token(at))
        tokens = (*self._made[:n], *(self.token(at) for at in range(len(self._made), n)))
        return ModelResponse(text, tokens, tuple(self._rows[: self._rows_needed(n)]))

    def _rows_needed(self, n_tokens: int) -> int:
        return rows_needed(self._needs, n_tokens) if self._needs else 0

    def _append(self, piece: str) -> None:
        """Take in text that is final; cut it where a stop string begins, even one that began in an earlier token."""
        if not piece:
            return
        longest = max(map(len, self._stop), default=1)
        start = max(0, len(self._text) - longest + 1)
        self._text += piece
        found = [at for at in (self._text.find(stop, start) for stop in self._stop) if at >= 0]
        if found:
            self._cut = min(found)
            self._text = self._text[: self._cut]

    def _finish(self, reason: FinishReason) -> None:
        if self._tokens:
            self._append(self._stream.finish())
            self._ends[-1] = len(self._text)
        self.finish_reason = reason if self._cut is None else "stop"

    def _pending(self) -> int:
        """Length of the longest end of the text that could be the beginning of a stop string."""
        for length in range(min(max(map(len, self._stop), default=1) - 1, len(self._text)), 0, -1):
            if any(stop.startswith(self._text[-length:]) for stop in self._stop):
                return length
        return 0
