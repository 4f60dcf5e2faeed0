"""One normal form of text, kept as words that remember where they stand in the original.

Lower case, compatibility forms and accents folded (models and alias lists disagree on them: Padmé / Padme), punctuation
and possessive `'s` dropped, `&` read as "and", initials joined (J. K. = JK), small number words read as digits
("seven" = "7", "twenty-one" = "21"), thousands separators dropped (1,000 = 1000), plural `s` ignored when words are
compared. Articles stay in the word list, because dropping them would make "Vitamin A" match "Vitamin C"; matching steps
over them instead. Nothing here knows questions, labels or tokens.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

ARTICLES = frozenset({"a", "an", "the"})

_APOSTROPHES = dict.fromkeys(map(ord, "\u2019\u2018\u02bc\u0060\u00b4\u2032"), "'")
# Letters that compatibility decomposition leaves alone although English text writes them plainly.
_PLAIN_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "\u0131": "i"})

# Scripts written without spaces: each character is a word, or an answer inside a sentence would never be a whole word.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_LETTER = rf"[^\W_{_UNSPACED}]"
_WORD = re.compile(
    rf"\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?(?!{_LETTER})|\d+\.\d+(?!{_LETTER})|[{_UNSPACED}]|{_LETTER}+(?:'{_LETTER}+)*|[&%]"
)
_INITIALS_GAP = re.compile(r"\.? ?")

_UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_NUMBERS = {word: number for number, word in enumerate(_UNITS + _TEENS)}
_DECADES = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_TENS = {word: 10 * tens for tens, word in enumerate(_DECADES, start=2)}
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_SUFFIXES = {1: "st", 2: "nd", 3: "rd"}
_SPELLED = (
    {word: str(number) for word, number in (_NUMBERS | _TENS).items()}
    | {word: f"{number}{_SUFFIXES.get(number, 'th')}" for number, word in enumerate(_ORDINALS, start=1)}
    | {"&": "and", "%": "percent"}
)


@dataclass(frozen=True, slots=True)
class Word:
    """One normalised word and the code points it came from."""

    text: str
    start: int
    """First code point in the original text."""
    end: int
    """One past the last code point in the original text; a possessive `'s` is left out."""

    @property
    def key(self) -> str:
        """What words are compared by: the text without a plural `s`."""
        word = self.text
        return word[:-1] if len(word) > 4 and word.endswith("s") and not word.endswith("ss") else word


def _fold(text: str) -> tuple[str, list[int]]:
    """Return the folded text and, for each of its characters, the index of the original character."""
    text = text.translate(_APOSTROPHES)
    if text.isascii():
        return text.lower(), list(range(len(text)))
    pieces: list[str] = []
    origin: list[int] = []
    for index, character in enumerate(text):
        decomposed = unicodedata.normalize("NFKD", character)
        # Only the Latin, Greek and Cyrillic marks go: in other scripts a combining mark is a vowel, not an accent.
        kept = "".join(part for part in decomposed if not "\u0300" <= part <= "\u036f")
        folded = unicodedata.normalize("NFC", kept).casefold().translate(_PLAIN_LETTERS)
        pieces.append(folded)
        origin.extend([index] * len(folded))
    return "".join(pieces), origin


def _can_join(left: Word, right: Word, between: str) -> bool:
    """Say whether two words are neighbouring initials, as in J. K. Rowling or U.S."""
    if not (left.text.isalpha() and len(right.text) == 1 and right.text.isalpha() and right.text.isascii()):
        return False
    return _INITIALS_GAP.fullmatch(between) is not None


@lru_cache(maxsize=65536)
def split_words(text: str) -> tuple[Word, ...]:
    """Normalise a text into words.

    Args:
        text: any text.

    Returns:
        Words in reading order; `Word.start` and `Word.end` are code points of `text`. Empty where the text has neither
        letters nor digits.
    """
    folded, origin = _fold(text)
    words: list[Word] = []
    initials = False
    tens = 0
    for found in _WORD.finditer(folded):
        start, end = found.span()
        piece = found.group()
        if piece.endswith("'s"):
            piece, end = piece[:-2], end - 2
        plain = piece.replace("'", "").replace(",", "")
        word = Word(_SPELLED.get(plain, plain), origin[start], origin[end - 1] + 1)
        between = text[words[-1].end : word.start] if words else ""
        if tens and 1 <= _NUMBERS.get(plain, 0) <= 9 and between in (" ", "-"):
            words[-1] = Word(str(tens + _NUMBERS[plain]), words[-1].start, word.end)
        elif initials and _can_join(words[-1], word, between):
            words[-1] = Word(words[-1].text + word.text, words[-1].start, word.end)
        else:
            words.append(word)
            # A lower-case "a" is the article, not an initial.
            initials = len(plain) == 1 and plain.isascii() and plain.isalpha() and text[word.start] != "a"
        tens = _TENS.get(plain, 0)
    return tuple(words)


def normalise(text: str) -> str:
    """Return the normal form as one string, without articles unless they end the text; what keys are made of."""
    words = split_words(text)
    last = len(words) - 1
    return " ".join(word.text for index, word in enumerate(words) if index == last or word.text not in ARTICLES)


def _match_at(words: Sequence[Word], position: int, phrase: Sequence[Word]) -> int:
    """Return one past the last word of a match that starts at `position`, or -1."""
    index = 0
    while index < len(phrase):
        if position < len(words) and words[position].key == phrase[index].key:
            position += 1
            index += 1
        elif index and position < len(words) and words[position].text in ARTICLES:
            position += 1
        elif 0 < index < len(phrase) - 1 and phrase[index].text in ARTICLES:
            index += 1
        else:
            return -1
    return position


def find_words(words: Sequence[Word], phrase: Sequence[Word]) -> list[tuple[int, int]]:
    """Find a phrase as whole words, stepping over articles inside it and leaving out leading ones.

    Args:
        words: the words searched.
        phrase: the words looked for.

    Returns:
        Half-open ranges of word indices, in reading order; empty for an empty phrase.
    """
    skip = 0
    while skip < len(phrase) - 1 and phrase[skip].text in ARTICLES:
        skip += 1
    phrase = phrase[skip:]
    if not phrase:
        return []
    first = phrase[0].key
    starts = (position for position, word in enumerate(words) if word.key == first)
    return [(start, end) for start in starts if (end := _match_at(words, start, phrase)) > 0]


def find_phrase(text: str, phrase: str) -> list[tuple[int, int]]:
    """Find a phrase in a text by normal form.

    Args:
        text: the text searched.
        phrase: the text looked for; without any letter or digit (an emoji) it is looked for as it is written.

    Returns:
        Half-open code-point ranges of `text`, in reading order.
    """
    words, wanted = split_words(text), split_words(phrase)
    if wanted:
        return [(words[start].start, words[end - 1].end) for start, end in find_words(words, wanted)]
    phrase = phrase.strip()
    if not phrase or phrase.isascii():
        return []
    return [found.span() for found in re.finditer(re.escape(phrase), text)]
