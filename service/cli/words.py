"""What every command shares: exit codes, its one error, and text that is safe to show in a terminal."""

import unicodedata

EXIT_ERROR = 1
"""The server, the network or a file."""
EXIT_ACTED = 3
"""`ask`: the guard acted on the answer."""
EXIT_UNSCORED = 4
"""`ask`: the answer has no risk."""
EXIT_INTERRUPTED = 130

_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class CliError(Exception):
    """Something that a user can mend; the message is one line and names the fix."""


def safe(text: str) -> str:
    """Text of others without what steers a terminal or turns the reading direction: U+FFFD stands for it.

    A model may write an escape sequence, and a terminal would obey it.
    """
    return "".join("\ufffd" if _steers(character) else character for character in text)


def one_line(text: str) -> str:
    """`safe`, without line breaks."""
    return safe(" ".join(text.split()))


def _steers(character: str) -> bool:
    return character in _DIRECTIONS or (unicodedata.category(character) == "Cc" and character not in "\n\t")
