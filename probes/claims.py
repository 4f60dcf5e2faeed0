"""Finds the words of a response that state something new, by comparing it with the question; no labels, no tokens.

Per sentence: the words that the question already holds (compared by stem), function words, verbs and lead-ins such as
"The capital of France is" go; of the runs of words that are left ("Paris"; "King Edward III of England") the one that
stands where an answer stands wins. A short sentence without a verb is an answer as a whole. The word lists are English.
Pure Python, well under a millisecond.
"""

import re
from collections.abc import Iterator

from probes.claim_runs import choose_run
from probes.claim_words import COPULAS, FRAME_WORDS, NAME_QUESTIONS, STOP_WORDS, WORD, Word, read_words, stem_word

LONGEST_BARE_ANSWER = 12
"""Words; a sentence up to this long that has no verb is taken whole."""
SHORTEST_ECHO = 6
"""Words; a shorter sentence without a verb is an answer even if the question holds all of it (men or women?)."""
LONGEST_TITLE = 8
"""Words; a sentence up to this long without any word of the question is an answer even if it has a verb."""
LONGEST_QUESTION = 80
"""Words; of a longer prompt (a passage, a conversation) only the sentences that ask are what an answer may echo."""

_SENTENCE_END = re.compile(
    r"\n+|(?<=[.!?])[\"'\u201d\u2019)\]]*\s+(?=[\"'\u201c\u2018(\[]*[A-Z0-9])|(?<=[\u3002\uff01\uff1f])"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(.])(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Gen|No|vs|etc|Inc|Ltd|Co|Bros|Mt|Ft)\.$|^\s*\d{1,2}\.$"
)
_ASIDE = re.compile(
    r"\s*[(\[]|,\s+(?:by|who|which|where|also|formerly|the|a|an|\d+(?:st|nd|rd|th))\b|\s[\u2013\u2014-]\s"
)
_SYMBOLS = re.compile(r"[\u2190-\u2bff\U0001f000-\U0001faff]+")
_LIST_MARK = re.compile(r"\s*(?:[-*\u2022]|\d{1,2}[.)])\s+")
_ASKS_NUMBER = re.compile(
    r"\b(?:when|how (?:many|much|old|tall|long|far|high|big)|years?|date|number|code)\b", re.IGNORECASE
)
_REFUSAL = re.compile(
    r"\b(?:i['\u2019]?m|i am|we are) (?:very |so )?(?:sorry|afraid|unable|unsure|not (?:sure|able|aware|certain))\b"
    r"|\bi (?:do not|don['\u2019]?t|can ?not|can['\u2019]t|could not|couldn['\u2019]t|apologi[sz]e)\b"
    r"|\b(?:as|i['\u2019]?m|i am) (?:here|designed|an? (?:\w+ )?(?:ai|assistant|chatbot|language model))\b"
    r"|\b(?:is|are|was|were) (?:unknown|not (?:\w+ly )?(?:known(?! for| as)|specified|mentioned|stated|available))\b",
    re.IGNORECASE,
)


class ClaimReader:
    """Finds the claims of a response that grows; a sentence that another one follows is read once."""

    def __init__(self, question: str) -> None:
        """Read the question.

        Args:
            question: what was asked.
        """
        self._asked_words = [found.group() for found in WORD.finditer(_shorten(question))]
        self._asked = frozenset(stem_word(word) for word in self._asked_words)
        self._wanted = "number" if _ASKS_NUMBER.search(question) else ""
        if not self._wanted and any(word.lower() in NAME_QUESTIONS for word in self._asked_words):
            self._wanted = "name"
        self._at = 0
        """Code points that are read for good."""
        self.settled: list[tuple[int, int]] = []
        """The claims that no more text can change."""

    def read(self, response: str) -> list[tuple[int, int]]:
        """Find the code-point range of the claim in each sentence.

        Args:
            response: the answer so far; it begins with the one of the last call.

        Returns:
            At most one half-open range a sentence, in reading order; sentences that claim nothing new have none.
        """
        sentences = list(split_sentences(response, self._at))
        is_alone = not self._at and len(sentences) == 1
        claims = list(self.settled)
        for at, (start, end) in enumerate(sentences):
            claims += self._read_sentence(response, start, end, is_alone=is_alone, is_first=not claims)
            # Only a word behind it says that a sentence has ended there: a quote may belong to either side.
            if at == len(sentences) - 2 and WORD.search(response, sentences[-1][0]):
                self._at, self.settled = sentences[-1][0], list(claims)
        return claims

    def _read_sentence(
        self, response: str, start: int, end: int, *, is_alone: bool, is_first: bool
    ) -> list[tuple[int, int]]:
        """The claim of one sentence, if it has one. `is_alone`: it is the response; `is_first`: none before claims."""
        mark = _LIST_MARK.match(response, start, end)
        words = read_words(response, mark.end() if mark else start, end, self._asked)
        if not words:
            return [found.span() for found in _SYMBOLS.finditer(response, start, end)][:1]
        is_echo = all(word.is_asked for word in words) and "?" in response[words[-1].end : end]
        # An answer that is cut off inside a list ends with the next number alone.
        is_list_number = not is_first and len(words) == 1 and words[0].end - start < 3
        if is_echo or is_list_number or _REFUSAL.search(response, start, end):
            return []
        if _is_bare(words, is_alone=is_alone):
            claim = _take_bare_answer(response, end, words, is_alone=is_alone)
            return [claim] if claim else []
        run = choose_run(response, words, self._asked_words, self._wanted)
        return [(words[run[0]].start, words[run[1] - 1].end)] if run else []


def find_claims(question: str, response: str) -> list[tuple[int, int]]:
    """Find the code-point range of the claim in each sentence of a whole response, as `ClaimReader.read` does."""
    return ClaimReader(question).read(response)


def split_sentences(text: str, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the code-point range of each sentence or line; initials and common abbreviations do not end one.

    Args:
        text: what is split.
        start: where the first of the wanted sentences begins.
    """
    for found in _SENTENCE_END.finditer(text, start):
        if "\n" not in found.group() and _ABBREVIATION.search(text[start : found.start()]):
            continue
        if text[start : found.start()].strip():
            yield start, found.start()
        start = found.end()
    if text[start:].strip():
        yield start, len(text)


def _shorten(question: str) -> str:
    """Return the part of a long prompt that asks."""
    if len(question.split()) <= LONGEST_QUESTION:
        return question
    sentences = [question[start:end].rstrip() for start, end in split_sentences(question)]
    return " ".join([sentence for sentence in sentences if sentence.endswith(("?", "\uff1f"))] or sentences[-1:])


def _is_bare(words: list[Word], *, is_alone: bool) -> bool:
    """Say whether a sentence is nothing but an answer.

    It is if it has no verb and is not mostly words of the question; or if it is the whole response, short, holds no
    word of the question and does not start like a sentence: titles and mottos have verbs too ("Let It Be").
    """
    echoed = sum(word.is_asked and word.lower not in STOP_WORDS for word in words)
    if is_alone and not echoed and len(words) <= LONGEST_TITLE and words[0].lower not in FRAME_WORDS:
        return True
    if len(words) <= 3 and not any(word.lower in COPULAS for word in words):
        return True
    if len(words) > LONGEST_BARE_ANSWER or any(word.is_verb for word in words):
        return False
    return len(words) <= SHORTEST_ECHO or 2 * echoed <= len(words)


def _take_bare_answer(text: str, end: int, words: list[Word], *, is_alone: bool) -> tuple[int, int] | None:
    """Take a bare answer whole, without a label in front ("Answer:") and an aside behind."""
    labels = [index for index in range(1, len(words)) if ":" in text[words[index - 1].end : words[index].start]]
    if labels and all(word.is_asked or word.lower in STOP_WORDS for word in words[: labels[0]]):
        words = words[labels[0] :]
    is_letter = is_alone and len(words) == 1 and len(words[0].text) == 1 and words[0].text.isupper()
    if all(word.lower in FRAME_WORDS for word in words) and not is_letter:
        return None
    aside = _ASIDE.search(text, words[0].end, end)
    last = max((word.end for word in words if aside is None or word.end <= aside.start()), default=words[-1].end)
    return words[0].start, last
