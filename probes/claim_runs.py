"""Chooses, inside one sentence with a verb, the run of new words that stands where an answer stands.

A run is a stretch of content words with at least one that the question does not hold; names and plain words make
separate runs, a quotation is one run. It knows nothing of other sentences.
"""

import itertools
import re
from collections.abc import Iterator, Sequence

from probes.claim_words import (
    CONNECTORS,
    COPULAS,
    LEAD_INS,
    NUMBER_WORDS,
    PREPOSITIONS,
    RELATIVES,
    STOP_WORDS,
    Word,
    stem_word,
)

Run = tuple[int, int]
"""Half-open range of word indices."""

_QUOTED = re.compile(
    r"\"[^\"\n]{1,120}(?:\"|$)|\u201c[^\u201d\n]{1,120}(?:\u201d|$)|(?<![^\W_])['\u2018](?=[^\W_])[^\n]{1,120}?['\u2019](?![^\W_])",
    re.MULTILINE,
)
LONGEST_ABBREVIATION = 4
_ARTICLES = frozenset({"a", "an", "the"})
_ADVERBIAL = ("ing", "ed", "ly")


def choose_run(text: str, words: Sequence[Word], asked_words: Sequence[str], wanted: str) -> Run | None:
    """Choose the answer of one sentence.

    Args:
        text: the response.
        words: the words of the sentence.
        asked_words: the words of the question, in order.
        wanted: what the question asks for: `number`, `name` or "".

    Returns:
        The run, or None where the sentence only repeats the question.
    """
    quotes = list(_find_quotes(text, words))
    loose = [run for run in _find_runs(text, words) if not any(start <= run[0] < end for start, end in quotes)]
    runs = sorted(quotes + loose)
    if not runs:
        return _choose_predicate(text, words, asked_words)
    kinds = _find_kinds(asked_words)
    scores = [_score_run(text, words, run, wanted, kinds, run in quotes) for run in runs]
    # Of equals the first: what follows an answer elaborates on it.
    return runs[scores.index(max(scores))]


def _find_quotes(text: str, words: Sequence[Word]) -> Iterator[Run]:
    for found in _QUOTED.finditer(text, max(0, words[0].start - 1), words[-1].end + 1):
        inside = [index for index, word in enumerate(words) if found.start() <= word.start and word.end <= found.end()]
        if any(words[index].is_new for index in inside) or (len(inside) == 1 and not words[inside[0]].is_asked):
            yield inside[0], inside[-1] + 1


def _find_runs(text: str, words: Sequence[Word]) -> Iterator[Run]:
    run: list[int] = []
    for index, word in enumerate(words):
        is_connector = word.lower in CONNECTORS
        is_content = not word.is_stop and (not word.is_asked or word.is_name)
        if run and not ((is_connector or is_content) and _continues(text, words, run, index, is_connector)):
            yield from _trim(text, words, run)
            run = []
        if is_content or (is_connector and run):
            run.append(index)
    yield from _trim(text, words, run)


def _continues(text: str, words: Sequence[Word], run: Sequence[int], index: int, is_connector: bool) -> bool:
    """Say whether a word belongs to the run before it."""
    gap = text[words[index - 1].end : words[index].start].strip()
    is_abbreviated = (
        gap == "." and len(words[index - 1].text) <= LONGEST_ABBREVIATION and words[index - 1].text.isalpha()
    )
    if not is_abbreviated and gap not in ("", ",", "-", "\u2013", "&", "/"):
        return False
    last = next(words[at] for at in reversed(run) if not words[at].is_stop)
    if is_connector and not words[index].is_name:
        return True
    if last.is_name == words[index].is_name:
        return True
    # "footballer Alex Morgan" is a kind and a name, "Swiss franc" is one thing.
    return gap != "," and last is words[run[-1]] and last.is_name and not last.is_asked


def _trim(text: str, words: Sequence[Word], run: list[int]) -> Iterator[Run]:
    """Cut connectors and comma-separated words of the question off the ends; yield what is new."""
    while run and words[run[-1]].lower in CONNECTORS:
        run = run[:-1]
    while len(run) > 1 and words[run[0]].is_asked and "," in text[words[run[0]].end : words[run[1]].start]:
        run = run[1:]
    while len(run) > 1 and words[run[-1]].is_asked and "," in text[words[run[-2]].end : words[run[-1]].start]:
        run = run[:-1]
    if any(words[index].is_new for index in run):
        yield run[0], run[-1] + 1


def _find_kinds(asked_words: Sequence[str]) -> frozenset[str]:
    """Return the stems of the kind of thing asked for: "constellation" of "in which constellation is"."""
    for index, word in enumerate(asked_words):
        if word.lower() in ("which", "what"):
            behind = itertools.takewhile(lambda word: word.lower() not in STOP_WORDS, asked_words[index + 1 :])
            return frozenset(stem_word(word) for word in itertools.islice(behind, 3) if word.islower())
    return frozenset()


def _score_run(text: str, words: Sequence[Word], run: Run, wanted: str, kinds: frozenset[str], is_quote: bool) -> float:
    first, last = run
    inside = words[first:last]
    verbs = [index for index in range(first) if words[index].is_verb]
    score = _score_lead(text, words, first) if verbs else _score_subject(words, run)
    has_name = any(word.is_name and not word.is_asked for word in inside)
    has_number = any((word.is_number or word.lower in NUMBER_WORDS) and not word.is_asked for word in inside)
    score += 2.0 * (has_name or is_quote)
    score += 0.5 * all(word.is_name or word.is_stop for word in inside)
    score += 3.0 * (wanted == "number" and has_number)
    score += 1.5 * (wanted == "name" and has_name and inside[-1].is_name and not has_number)
    score += 4.5 * _is_of_kind(words, run, kinds)
    score -= 1.5 * any(words[index].lower in RELATIVES for index in range(verbs[0] if verbs else 0, first))
    score -= 2.0 * ("(" in text[words[0].start : words[first].start])
    score -= 1.0 * all(word.lower.endswith(_ADVERBIAL) and not word.is_name for word in inside)
    # "the longest river": a plain word in front of a word of the question describes it.
    behind = words[last] if last < len(words) else None
    describes = behind is not None and behind.is_asked and not behind.is_stop and not inside[-1].is_name
    return score - 0.5 * describes


def _score_lead(text: str, words: Sequence[Word], first: int) -> float:
    """Score what stands in front of a run behind the verb; articles and what describes the run are stepped over."""
    before = first - 1
    while before > 0 and (words[before].lower in _ARTICLES or not words[before].is_stop):
        if text[words[before].end : words[before + 1].start].strip():
            break
        before -= 1
    lead = words[before]
    if lead.lower in COPULAS or lead.lower in LEAD_INS or ":" in text[lead.end : words[before + 1].start]:
        return 3.0
    if lead.lower in PREPOSITIONS or lead.lower == "of":
        return 1.5
    return 1.0 * lead.is_verb


def _is_of_kind(words: Sequence[Word], run: Run, kinds: frozenset[str]) -> bool:
    """Say whether a run names its kind ("Eastern Time Zone") or follows it ("the continent of Africa")."""
    if any(word.is_name and stem_word(word.text) in kinds for word in words[run[0] : run[1]]):
        return True
    before = run[0] - 1
    while before >= 0 and (words[before].lower in _ARTICLES or words[before].lower == "of"):
        before -= 1
    return before >= 0 and words[run[0]].is_name and stem_word(words[before].text) in kinds


def _score_subject(words: Sequence[Word], run: Run) -> float:
    """Score a run before the verb: "England won the World Cup" answers who won, "England is a country" does not."""
    behind = next((word for word in words[run[1] :] if not word.is_stop), None)
    starts = all(word.is_stop for word in words[: run[0]]) and any(word.is_name for word in words[run[0] : run[1]])
    if not starts or behind is None or not behind.is_asked:
        return -3.0
    verb = words[run[1]]
    return 0.0 if verb.lower in COPULAS else 3.0 * (verb.is_verb or verb is behind)


def _choose_predicate(text: str, words: Sequence[Word], asked_words: Sequence[str]) -> Run | None:
    """Choose what follows the last copula although the question holds it, unless it stood like that in the question."""
    copula = max((index for index, word in enumerate(words) if word.lower in COPULAS), default=-1)
    start = copula + 1
    while start < len(words) and words[start].is_stop:
        start += 1
    end = start
    while end < len(words) and (not words[end].is_stop or words[end].lower in CONNECTORS):
        if end > start and text[words[end - 1].end : words[end].start].strip() not in ("", "-", "&"):
            break
        end += 1
    while end > start and words[end - 1].lower in CONNECTORS:
        end -= 1
    if copula < 0 or start == end:
        return None
    asked = [stem_word(word) for word in asked_words]
    said = [stem_word(word.text) for word in words]
    # With the word before or behind it, it stands in the question too: that is where it was copied from.
    if _holds(asked, said[copula:end]) or (end < len(words) and _holds(asked, said[start : end + 1])):
        return None
    return start, end


def _holds(asked: list[str], said: list[str]) -> bool:
    return any(asked[index : index + len(said)] == said for index in range(len(asked)))
