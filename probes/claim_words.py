"""Words of an answer for `probes.claims`: how they are cut and compared, and the English lists of frame words.

It knows no sentence structure.
"""

import re
from dataclasses import dataclass

WORD = re.compile(
    r"(?:[A-Z]\.){2,}|[A-Z](?:#|\+\+)(?!\w)|(?:(?<!\w)[-\u2212])?[$\u20ac\u00a3]?\d(?:[\d.,:/]*\d)?(?:%|(?:st|nd|rd|th|s)\b)?(?:-[^\W_]+)*"
    r"|[^\W_]+(?:['\u2019.\-&/][^\W_]+)*"
)
_ENDINGS = ("ation", "ings", "ers", "ing", "ies", "ian", "ese", "ish", "ed", "es", "er", "ly", "al", "s")

_COPULAS = "is are was were be been being am isn't aren't wasn't weren't's equals means"

_PREPOSITIONS = (
    "up in at on by from to for with as into onto near during since until through between among about around under "
    "over after before against within across along behind beyond inside outside like than per via toward towards "
    "without"
)

_RELATIVES = "which who whom whose that where when while because although though but however if since so then"

_CONNECTORS = "of the and or & de la le du des del di da van von der den el al bin ibn y e et"

_LEAD_INS = "called named known titled entitled namely nicknamed dubbed termed answer answers correct response simply"

_PRONOUNS = (
    "a an the i you he she it we they me him her us them my your his its our their this that these those there here "
    "himself herself itself themselves one someone something who what which whose whom how why where when not no none "
    "also just only very most more less much many some any all each every both either neither such same other another "
    "own first often usually mainly primarily specifically actually approximately widely commonly typically generally "
    "sometimes currently now later famous well several various certain possibly probably likely even rather still "
    "again best "
    "nor ahead type kind sort example classic part question context text other than none way"
)

_AUXILIARIES = (
    "do does did done has have had having can could will would shall should may might must cannot can't don't doesn't "
    "didn't won't hasn't haven't hadn't get gets got used"
)

_VERBS = (
    "located situated based found born died lived lives live wrote written writes write directed directs produced "
    "produces released published founded created creates created made makes make won wins win played plays play played "
    "starred stars features featured appears appeared became becomes become began begins began started starts came "
    "comes come went goes go took takes take given gives gave give led leads serves served held holds refers refer "
    "referred describes described describe derived derives discovered invented designed developed built painted "
    "composed sang sings sung recorded performed killed married married beat defeated hosted held ran runs run worked "
    "works attended studied spoken speaks spoke speak considered associated belongs belong consists consist contains "
    "contain includes include including represents represent originated originates stands stand stood said says say "
    "happened occurred took place took named joined moved grew raised covers covered borders bordered belonged formed "
    "established introduced published adopted adapted set sets said inspired caused causes uses use awarded "
    "provides provided mentions mentioned suggests suggested followed follows"
)

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion half "
    "once twice"
)

_FRAME = (
    "a an the it is are was were and or of to in he she they this that these those there here i you we my his her "
    "their answer answers correct"
)

_QUESTION_NOUNS = (
    "who whom whose where country city town state continent capital company band group actor actress author writer "
    "novelist poet composer singer artist painter film movie book novel song album opera play river lake sea ocean "
    "mountain island king queen president minister monarch emperor leader director team club university college "
    "school newspaper magazine airline language nationality character scientist inventor father mother husband wife "
    "brother sister son daughter constellation"
)

COPULAS = frozenset(_COPULAS.split())
PREPOSITIONS = frozenset(_PREPOSITIONS.split())
RELATIVES = frozenset(_RELATIVES.split())
CONNECTORS = frozenset(_CONNECTORS.split())
"""May stand inside a run of content words, never at its ends."""
LEAD_INS = frozenset(_LEAD_INS.split())
"""An answer usually follows these directly."""
NUMBER_WORDS = frozenset(_NUMBERS.split())
VERBS = frozenset(_VERBS.split()) | frozenset(_AUXILIARIES.split())
"""A sentence with one of these is not a bare answer; a run ends at them."""
STOP_WORDS = COPULAS | PREPOSITIONS | RELATIVES | CONNECTORS | LEAD_INS | VERBS | frozenset(_PRONOUNS.split())
"""Words that never make a run on their own, unless they are written like a name inside a sentence."""
FRAME_WORDS = frozenset(_FRAME.split())
"""Words that start a sentence rather than a title; an answer of nothing else claims nothing."""
NAME_QUESTIONS = frozenset(_QUESTION_NOUNS.split())
"""A question with one of these asks for a name."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a response."""

    text: str
    start: int
    """First code point."""
    end: int
    """One past the last code point."""
    is_name: bool
    """A number, or written with a capital that is not only the sentence's."""
    is_asked: bool
    """The question holds it too, by stem."""

    @property
    def lower(self) -> str:
        """The word in lower case."""
        return self.text.lower()

    @property
    def is_number(self) -> bool:
        """Whether it has a digit."""
        return any(character.isdigit() for character in self.text)

    @property
    def is_stop(self) -> bool:
        """Whether it is frame rather than content."""
        return not self.is_name and self.lower in STOP_WORDS

    @property
    def is_new(self) -> bool:
        """Whether it is content that the question does not hold."""
        return not self.is_asked and self.lower not in STOP_WORDS

    @property
    def is_verb(self) -> bool:
        """Whether it shows that the text is a sentence."""
        return not self.is_name and (self.lower in COPULAS or self.lower in VERBS)


def stem_word(word: str) -> str:
    """Return what words are compared by; crude on purpose: plays, played and player are all "play"."""
    stem = word.lower().replace("\u2019", "'")
    for suffix in ("'s", "s'"):
        stem = stem.removesuffix(suffix)
    for _ in range(2):
        ending = next((ending for ending in _ENDINGS if stem.endswith(ending) and len(stem) - len(ending) >= 3), "")
        stem = stem.removesuffix(ending)
    return stem.rstrip("aeiouy") if len(stem) > 4 else stem


def _is_asked(word: str, asked: frozenset[str]) -> bool:
    """Say whether the question holds a word; O.J. is there too if O. J. is."""
    return stem_word(word) in asked or (
        "." in word and all(stem_word(part) in asked for part in word.split(".") if part)
    )


def read_words(text: str, start: int, end: int, asked: frozenset[str]) -> list[Word]:
    """Cut one sentence into words.

    Args:
        text: the response.
        start: first code point of the sentence.
        end: one past its last code point.
        asked: stems of the question's words.

    Returns:
        The words in reading order.
    """
    words: list[Word] = []
    for found in WORD.finditer(text, start, end):
        word = found.group()
        is_name = any(character.isdigit() for character in word) or (
            word[0].isupper() and word.lower() not in COPULAS and (bool(words) or word.lower() not in STOP_WORDS)
        )
        words.append(Word(word, found.start(), found.end(), is_name, _is_asked(word, asked)))
    return words
