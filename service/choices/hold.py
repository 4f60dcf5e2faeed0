"""Hold: which tokens of a response that goes on may leave. Judges claim by claim, a window of tokens at the latest.

A token leaves once its sentence has ended and the claim in it is under the threshold, or once a window of tokens waits
and they, taken together, are under it. What is over it never leaves, nor does anything behind it. Where the first claim
decides for the response, nothing is held behind it. Pure: the caller stops the generation.
"""

from collections.abc import Sequence

from probes.claims import split_sentences
from probes.spans import AnswerSpan
from service.choices.plan import GuardPlan
from service.guard.judge import SpanFinder, judge_spans
from service.guard.policy import is_over
from service.guard.response import ModelResponse, ResponseToken
from service.guard.transcript import Transcript
from service.probe_roles.served import ServedModel

LONGEST_SENTENCE = 256
"""Tokens in which the end of a sentence is looked for."""


class HoldGate:
    """Of one response that grows."""

    def __init__(self, served: ServedModel, plan: GuardPlan, window: int) -> None:
        """Begin with nothing released.

        Args:
            served: Its probe judges.
            plan: Question, locator, policy and threshold.
            window: Tokens that wait at most.
        """
        self.released = 0
        """Tokens that may leave."""
        self.is_blocked = False
        """Something that waits is over the threshold, under policy `block`."""
        self._is_unscored = False
        """Something could not be scored: the rest waits for the judgement of the whole response."""
        self.is_open = False
        """The deciding claim may leave, so the rest may."""
        self._sentence = 0
        """First token of the sentence that goes on."""
        self._probe, self._plan, self._window = served.probe, plan, window
        self._finder = SpanFinder(served.probe, plan.question, plan.locator)

    def offer(self, transcript: Transcript) -> None:
        """Look at the tokens that are final now."""
        n = transcript.n_ready
        if self.is_blocked or self._is_unscored or n <= self.released:
            return
        if not self.is_open:
            self._look(transcript, n)
        if self.is_open:
            self.released = n

    def _look(self, transcript: Transcript, n: int) -> None:
        # From where the sentence begins, also where a part of it was released: "J" and ". Smith" are no two sentences.
        start = max(self._sentence, n - LONGEST_SENTENCE)
        ended = start + _count_ended([transcript.token(at) for at in range(start, n)])
        if ended > start:
            self._judge_sentences(transcript.response(n), ended)
        if not (self.is_open or self.is_blocked or self._is_unscored) and n - self.released >= self._window:
            start = 0 if self._finder.locator == "response" else self.released
            self._judge(transcript.response(n), [AnswerSpan(start, n)], n)

    def _judge_sentences(self, response: ModelResponse, ended: int) -> None:
        """Judge what the tokens before `ended`, whole sentences, claim."""
        if self._finder.locator == "response":
            claims = [AnswerSpan(0, ended)]
        else:
            spans = self._finder.find(response)
            claims = [span for span in spans if self._sentence <= span.start < ended]
            if claims and claims[-1].end > ended:  # the locator sees no end of a sentence there
                return
            claims = claims if self._finder.locator == "claims" else claims[:1]
        self._sentence = ended
        self._judge(response, claims, max(ended, self.released))
        is_sure = not (self.is_blocked or self._is_unscored)
        self.is_open = self._finder.locator == "lexical" and bool(claims) and is_sure

    def _judge(self, response: ModelResponse, spans: Sequence[AnswerSpan], n_tokens: int) -> None:
        """Release so many tokens if each of the spans may leave."""
        risks = [part.risk for part in judge_spans(response, self._probe, spans)]
        self._is_unscored = None in risks
        self.is_blocked = self._plan.policy == "block" and any(is_over(risk, self._plan.threshold) for risk in risks)
        if not (self._is_unscored or self.is_blocked):
            self.released = n_tokens


def _count_ended(waiting: Sequence[ResponseToken]) -> int:
    """Tokens that belong to sentences which another one follows."""
    text = "".join(token.text for token in waiting)
    ends = [end for _, end in split_sentences(text)][:-1]
    return sum(token.end - waiting[0].start <= ends[-1] for token in waiting) if ends else 0
