"""Says whether a response is right, wrong or a refusal, by alias, and which questions the samples agree on.

The alias judge (whole-word containment of an accepted answer) misses 10 to 30% of right answers: paraphrases, aliases
that nobody listed. Label noise is therefore reported beside every result; `offline.labels.judge_openai` is the other
judge. This module knows text only: no model, no tokens, no files.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from offline.labels.judge_contrast import judge_contrast
from offline.labels.normalise import ARTICLES, find_phrase, find_words, split_words
from offline.records import Judgement, Label, Question, Response, Verdict

_I_AM = r"\b(?:i am|im|we are)"
_EVIDENCE = r"(?:information|idea|knowledge|records?|evidence|data)"

REFUSAL_PATTERNS = (
    # Not knowing. A bare "do not know" needs its subject or the start of the text: it also stands in titles.
    r"(?:^|\b(?:i|we) (?:really |honestly |just |also )?)(?:do not|dont|did not|didnt) (?:actually |really )?know\b",
    rf"\b(?:i|we) (?:do not|dont) (?:currently )?have (?:any |enough |access to |the )?(?:\w+ )?{_EVIDENCE}\b",
    rf"{_I_AM} (?:not (?:sure|certain|aware|familiar|able)|unsure|unable|unaware|uncertain|unfamiliar)\b",
    rf"\b(?:i|we) (?:have no|can find no|could find no|cannot find any|could not find any) (?:\w+ )?{_EVIDENCE}\b",
    rf"\bno {_EVIDENCE} (?:is |was |are |were )?(?:available|found|about|on|of)\b",
    r"^(?:unknown|none|no answer|no information|not (?:sure|known|applicable|available)|na|unanswerable)$",
    r"^(?:the )?(?:(?:correct |exact )?answer|it|this|that|information) is (?:unknown|not (?:known|available))",
    # Not being able or willing to answer.
    r"\b(?:i|we) (?:cannot|cant|can not|could not|couldnt|am not able to|wont|will not)\b",
    r"^(?:cannot|can not|cant|unable to)\b",
    r"\b(?:cannot|can not|cant|could not) be (?:answered|determined|known|verified|identified)\b",
    rf"{_I_AM} (?:very |so )?(?:sorry|afraid)\b|^(?:sorry|my apologies)\b|\bi apologi[sz]e\b",
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b",
    rf"{_I_AM} (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model)\b",
    # Saying that there is no answer.
    r"\b(?:there is|theres|there are) no (?:such|known|records?|information|evidence|widely|real|specific|publicly)\b",
    r"\bnot (?:publicly )?(?:available|known)$",
)
"""What counts as a refusal, over the normalised response; a title inside an accepted answer does not count."""

DENIAL_PATTERNS = (
    r"\b(?:does not|doesnt|did not|didnt|do not|dont) (?:actually |seem to |appear to )?exist\b",
    # At the end only: "is a fictional character from the series ..." tells a story.
    r"\b(?:is|are|to be) an? (?:purely |completely )?(?:fictional|fictitious|made up|non ?existent)(?: \w+){0,2}$",
    r"\bis not a (?:real|known|recogni[sz]ed)\b",
)
"""What counts as a refusal too where the entity is made up; elsewhere "a fictional detective" is an answer."""

_REFUSAL = re.compile("|".join(f"(?:{pattern})" for pattern in REFUSAL_PATTERNS))
_DENIAL = re.compile("|".join(f"(?:{pattern})" for pattern in DENIAL_PATTERNS))

# Words that add nothing to an answer which repeats an alternative of the question ("It is more common in women").
_FILLER_TEXT = (
    "it is was are were be been he she they this that in on at of to for by and or as with from than answer correct so "
    "has have had its their his her which who what when where how why did do does not"
)
_FILLER = ARTICLES | set(_FILLER_TEXT.split())

_DISAMBIGUATION = re.compile(r"\s*\(disambiguation\)\s*$", re.IGNORECASE)


class Judge(Protocol):
    """What every judge does: one judgement a pair, in the order given."""

    def judge_all(self, pairs: Sequence[tuple[Question, Response]]) -> list[Judgement]:
        """Judge every pair."""


def is_refusal(response_text: str, *, is_made_up: bool = False) -> bool:
    """Say whether a response declines to answer.

    Args:
        response_text: the response; an empty one is a refusal.
        is_made_up: the question is about something that does not exist, so saying so is a refusal too.
    """
    words = split_words(response_text)
    if not words:
        # An answer may be nothing but an emoji; only white space and ASCII punctuation say nothing.
        return response_text.isascii() or not response_text.strip()
    text = " ".join(word.text for word in words)
    return _REFUSAL.search(text) is not None or (is_made_up and _DENIAL.search(text) is not None)


def find_answer(question: Question, response_text: str) -> tuple[str, list[tuple[int, int]]] | None:
    """Find the longest accepted answer in a response, leaving out those that only echo the question.

    An accepted answer that the question names itself ("men or women?") counts only where the response adds no other
    content word and the occurrence does not stand next to the words it stands next to in the question.

    Args:
        question: the question with its accepted answers.
        response_text: the response.

    Returns:
        The accepted answer as it is written in `question.answers` and the code-point ranges where it stands, or None.
    """
    best: tuple[int, str, list[tuple[int, int]]] | None = None
    for answer in question.answers:
        phrase = _DISAMBIGUATION.sub("", answer)
        spans = find_phrase(response_text, phrase)
        if spans and find_phrase(question.question, phrase):
            spans = _answering_spans(question.question, response_text, phrase)
        if spans and (best is None or spans[0][1] - spans[0][0] > best[0]):
            best = (spans[0][1] - spans[0][0], answer, spans)
    return None if best is None else best[1:]


def _answering_spans(question_text: str, response_text: str, phrase: str) -> list[tuple[int, int]]:
    """Return the occurrences of an alias of the question's own words that answer rather than echo it."""
    asked, said, wanted = split_words(question_text), split_words(response_text), split_words(phrase)
    asked_keys = {word.key for word in asked}
    echoes = find_words(asked, wanted)
    before = {asked[start - 1].key for start, _ in echoes if start}
    after = {asked[end].key for _, end in echoes if end < len(asked)}
    spans = []
    for start, end in find_words(said, wanted):
        rest = [*said[:start], *said[end:]]
        adds_content = any(word.key not in asked_keys and word.text not in _FILLER for word in rest)
        repeats_context = (start > 0 and said[start - 1].key in before) or (end < len(said) and said[end].key in after)
        if not adds_content and not repeats_context:
            spans.append((said[start].start, said[end - 1].end))
    return spans


def judge_alias(question: Question, response_text: str) -> tuple[Verdict, str | None]:
    """Judge one response by whole-word containment of a normalised accepted answer.

    A refusal is a refusal even if it goes on to name the answer, as in the paper, which drops such rows; but refusal
    words inside the accepted answer itself ("I Can't Get No Satisfaction") do not make one. Without accepted
    answers every response that is not a refusal is wrong; with known wrong ones too, the nearer list decides.

    Args:
        question: the question with its accepted answers.
        response_text: the response.

    Returns:
        The verdict, and the accepted answer that was found where it is `right`.
    """
    found = find_answer(question, response_text)
    rest = response_text
    if found is not None:
        for start, end in reversed(found[1]):
            rest = f"{rest[:start]} it {rest[end:]}"
    if is_refusal(rest, is_made_up=not question.answers):
        return "refusal", None
    if question.answers and question.false_answers:
        return judge_contrast(question, response_text)
    return ("wrong", None) if found is None else ("right", found[0])


class AliasJudge:
    """`judge_alias` as a `Judge`."""

    def judge_all(self, pairs: Sequence[tuple[Question, Response]]) -> list[Judgement]:
        """Judge every pair."""
        judgements = []
        for question, response in pairs:
            verdict, matched = judge_alias(question, response.text)
            judgements.append(Judgement(question.question_id, response.sample, verdict, "alias", matched))
        return judgements


def is_echoed(question: Question) -> bool:
    """Say whether every accepted answer stands in the question, so that the alias judge cannot judge it well."""
    return bool(question.answers) and all(
        find_phrase(question.question, _DISAMBIGUATION.sub("", answer)) for answer in question.answers
    )


def split_judgeable(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """Split questions into those that the alias judge can judge and those whose answers they all name themselves."""
    flags = [is_echoed(question) for question in questions]
    kept = [question for question, echoed in zip(questions, flags, strict=True) if not echoed]
    return kept, [question for question, echoed in zip(questions, flags, strict=True) if echoed]


@dataclass(frozen=True, slots=True)
class Consistency:
    """What the samples of one question say together."""

    label: Label | None
    """None where the question is dropped."""
    agreement: float
    """Share of all samples that have the most common of `right` and `wrong`, in [0, 1]."""
    reason: str
    """`kept`, or why it is dropped: `mixed`, `refusal`, `unjudged`, `no samples`."""


def find_consistency(verdicts: Sequence[Verdict], agreement: float = 1.0) -> Consistency:
    """Decide a question's label from the verdicts on its samples.

    Refusals and unjudged samples stay in the denominator: neither is evidence for a label, so each lowers the
    agreement, and with `agreement` 1.0 (the paper) a single one drops the question.

    Args:
        verdicts: one verdict a sample, of one question.
        agreement: least share of equal verdicts that keeps the question, in (0, 1]; a tie is always dropped.

    Returns:
        The label, the share, and why a question is dropped.

    Raises:
        ValueError: `agreement` is not in (0, 1].
    """
    if not 0.0 < agreement <= 1.0:
        raise ValueError(f"agreement is {agreement}; it must be above 0 and at most 1")
    if not verdicts:
        return Consistency(None, 0.0, "no samples")
    counts = Counter(verdicts)
    right, wrong = counts["right"], counts["wrong"]
    share = max(right, wrong) / len(verdicts)
    if share >= agreement and right != wrong:
        return Consistency("faithful" if right > wrong else "hallucinated", share, "kept")
    if right and wrong:
        return Consistency(None, share, "mixed")
    return Consistency(None, share, "refusal" if counts["refusal"] >= counts["unjudged"] else "unjudged")
