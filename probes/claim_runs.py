"""Chooses, inside one sentence with a verb, the run of new words that stands where an answer stands.

A run is a stretch of content words with at least one that the question does not hold; names and plain words make
separate runs, a quotation is one run. It knows nothing of other sentences.
"""

import re
from collections.abc import Iterator, Sequence

from probes.claim_words import CONNECTORS, COPULAS, LEAD_INS, PREPOSITIONS, RELATIVES, Word, stem_word

Run = tuple[int, int]
"""Half-open range of word indices."""

_QUOTED = re.compile(
    r"\"[^\"\n]{1,120}(?:\"|$)|\u201c[^\u201d\n]{1,120}(?:\u201d|$)|(?<![^\W_])['\u2018](?=[^\W_])[^\n]{1,120}?['\u2019](?![^\W_])",
    re.MULTILINE,
)
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
    scores = [_score_run(text, words, run, wanted, run in quotes) for run in runs]
    # Of equals the first: what follows an answer elaborates on it.
    return runs[scores.index(max(scores))]


def _find_quotes(text: str, words: Sequence[Word]) -> Iterator[Run]:
    for found in _QUOTED.finditer(text, max(0, words[0].start - 1), words[-1].end + 1):
        inside = [index for index, word in enumerate(words) if found.start() <= word.start and word.end <= found.end()]
        if any(words[index].is_new for index in inside):
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
    if gap not in ("", ",", "-", "\u2013", "&", ".", "/"):
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


def _score_run(text: str, words: Sequence[Word], run: Run, wanted: str, is_quote: bool) -> float:
    first, last = run
    inside = words[first:last]
    before = first - 1
    while before >= 0 and words[before].lower in _ARTICLES:
        before -= 1
    verbs = [index for index in range(first) if words[index].is_verb]
    lead = words[before].lower if before >= 0 else ""
    score = 0.0
    if before >= 0 and (
        lead in COPULAS or lead in LEAD_INS or ":" in text[words[before].end : words[before + 1].start]
    ):
        score += 3.0
    elif (lead in PREPOSITIONS or lead == "of") and verbs:
        score += 1.5
    elif before >= 0 and words[before].is_verb:
        score += 1.0
    has_name = any(word.is_name and not word.is_asked for word in inside)
    has_number = any(word.is_number and not word.is_asked for word in inside)
    score += 2.0 * (has_name or is_quote)
    score += 3.0 * (wanted == "number" and has_number) + 1.5 * (
        wanted == "name" and has_name and inside[-1].is_name and not has_number
    )
    score += 0.5 * all(word.is_name or word.is_stop for word in inside)
    if not verbs:
        score += _score_subject(words, run)
    score -= 1.5 * any(words[index].lower in RELATIVES for index in range(verbs[0] if verbs else 0, first))
    score -= 2.0 * ("(" in text[words[0].start : words[first].start])
    score -= 1.0 * all(word.lower.endswith(_ADVERBIAL) and not word.is_name for word in inside)
    return score


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
    said = [stem_word(word.text) for word in words[copula:end]]
    asked = [stem_word(word) for word in asked_words]
    is_echo = any(asked[index : index + len(said)] == said for index in range(len(asked)))
    return None if is_echo else (start, end)
