"""Labels the answer tokens of responses: which of a response's own tokens carry the factual claim.

    lexical       the label-free locator that the service uses too (`probes.spans.locate_answer`); both classes alike
    alias         the accepted answer found in the response; right answers only
    short-answer  the model's own answer-only response, found again in its sentence answer; both classes
    openai        a language model copies the answer out of the response (`offline.labels.spans_openai`); both classes

A labeller that reads accepted answers can mark right responses only; training on it would teach the probe how spans
were found, so the classes must share one method. It samples and judges nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from offline.labels.judge import find_answer
from offline.labels.normalise import find_phrase, split_words
from offline.records import Question, Response, SpanRow
from probes.claims import find_claims
from probes.spans import AnswerSpan, Decoder, char_span_to_tokens, token_offsets

CharSpan = tuple[int, int]
"""Half-open range of code points of the response text."""

Labeller = Callable[[Question, Response], CharSpan | None]
"""Finds the answer of one response as code points of `Response.text`, or None."""


@dataclass(frozen=True, slots=True)
class SpanResult:
    """The spans that were found, and why the others were not."""

    rows: list[SpanRow]
    unlabelled: Counter[str] = field(default_factory=Counter)
    """Responses without a span, by reason."""


def label_spans(
    pairs: Sequence[tuple[Question, Response]], tokenizer: Decoder, labeller: Labeller, method: str
) -> SpanResult:
    """Label the answer tokens of many responses.

    Args:
        pairs: questions with their responses.
        tokenizer: the tokenizer of the model that made the responses.
        labeller: finds the answer in the text; `find_lexical`, `find_alias`, `ShortAnswerLabeller`, or
            `offline.labels.spans_openai.OpenAILabeller`.
        method: what `SpanRow.method` says.

    Returns:
        One row for each response whose answer was found; the rest are counted.
    """
    result = SpanResult([])
    for question, response in pairs:
        found = labeller(question, response)
        if found is None:
            result.unlabelled["no span"] += 1
            continue
        offsets = token_offsets(tokenizer, response.token_ids)
        length = offsets[-1][1] if offsets else 0
        if length != len(response.text):
            # The text was cleaned or cut after decoding, so its code points are not those of the tokens.
            result.unlabelled["text is not the decoded tokens"] += 1
            continue
        span = char_span_to_tokens(offsets, *found)
        if span is None:
            result.unlabelled["no token holds the span"] += 1
            continue
        result.rows.append(SpanRow(response.question_id, response.sample, span.start, span.end, method))
    return result


def find_lexical(question: Question, response: Response) -> CharSpan | None:
    """Find the claim of the first sentence that makes one, from the question's and the response's words alone."""
    return next(iter(find_claims(question.question, response.text)), None)


def find_alias(question: Question, response: Response) -> CharSpan | None:
    """Find an accepted answer; None where the response does not hold one."""
    found = find_answer(question, response.text)
    return choose_occurrence(question, response.text, found[1]) if found else None


class ShortAnswerLabeller:
    """Finds the model's answer-only response again inside its sentence answer to the same question."""

    def __init__(self, short_answers: dict[str, str]) -> None:
        """Prepare a labeller.

        Args:
            short_answers: question id -> text of the answer-only response.
        """
        self._short_answers = short_answers

    def __call__(self, question: Question, response: Response) -> CharSpan | None:
        """Find the short answer; None where the model answered otherwise in a sentence."""
        short = self._short_answers.get(question.question_id, "")
        core = next(iter(find_claims(question.question, short)), None)
        if core is None:
            return None
        return choose_occurrence(question, response.text, find_phrase(response.text, short[core[0] : core[1]]))


def choose_occurrence(question: Question, response_text: str, spans: Sequence[CharSpan]) -> CharSpan | None:
    """Choose which of several occurrences of an answer is the answer.

    The first look-alike is often the question repeated ("The capital of Singapore is Singapore"). An occurrence that
    the locator's claim overlaps is taken first, then one that does not follow the word it follows in the question.

    Args:
        question: the question.
        response_text: the response.
        spans: code-point ranges of the occurrences, in reading order.

    Returns:
        One of them, or None if there are none.
    """
    if len(spans) < 2:
        return spans[0] if spans else None
    claims = find_claims(question.question, response_text)
    asked = " ".join(word.key for word in split_words(question.question))

    def rank(span: CharSpan) -> tuple[bool, bool]:
        is_claim = any(start < span[1] and span[0] < end for start, end in claims)
        before = [word.key for word in split_words(response_text[: span[0]])][-1:]
        inside = [word.key for word in split_words(response_text[span[0] : span[1]])]
        is_echo = bool(before) and f" {' '.join(before + inside)} " in f" {asked} "
        return not is_claim, is_echo

    return min(spans, key=rank)


def to_answer_span(row: SpanRow) -> AnswerSpan:
    """Return a row's token range."""
    return AnswerSpan(row.token_start, row.token_end)
