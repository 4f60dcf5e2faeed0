"""RunningRisk: the risk of a response that goes on; only the sentence that is being written is read again."""

import re

from probes.probe import Probe
from probes.spans import AnswerSpan
from service.guard.judge import Locator, SpanFinder, decide_span, judge_spans
from service.guard.judgement import SpanRisk
from service.guard.response import ModelResponse

_FOLLOWED = re.compile(r"[.,;:!?)\n\u3002\uff01\uff1f]|\s\w")
"""Text after a span that ends it: punctuation or another word. An apostrophe does not."""


class RunningRisk:
    """Of one response."""

    def __init__(self, probe: Probe, *, question: str, locator: Locator) -> None:
        """Begin with nothing judged.

        Args:
            probe: The served probe.
            question: The last user turn, for the locator.
            locator: Which tokens are judged; `default` is the one the probe was calibrated with.
        """
        self._probe, self._finder = probe, SpanFinder(probe, question, locator)
        self._judged: dict[AnswerSpan, SpanRisk] = {}
        self.is_final = False
        """No later token can change the risk."""

    def of(self, response: ModelResponse) -> float | None:
        """The risk so far; None where nothing is claimed yet or a score is missing.

        A located span that nothing follows yet is still being written ("I" may become "I don't know") and not judged.

        Args:
            response: It begins with the one of the last call, whose tokens and rows do not change.
        """
        spans = self._finder.find(response)
        if spans and self._finder.locator != "response":
            rest = response.text[response.tokens[spans[-1].end - 1].end :]
            if not _FOLLOWED.search(rest):
                spans = spans[:-1]
        fresh = judge_spans(response, self._probe, [span for span in spans if span not in self._judged])
        known = self._judged | {part.span: part for part in fresh}
        self._judged = {span: known[span] for span in spans}
        if not spans:
            return None
        self.is_final = self._finder.locator == "lexical" and self._finder.has_settled
        return decide_span(list(self._judged.values()), self._finder.locator).risk
