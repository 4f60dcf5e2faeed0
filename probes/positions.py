"""The one rule that says which fed row scores which response token.

An engine computes a row for every token that is fed to the model. Counted from the end of the prompt, row r_0 is the
last prompt token's (its logits predict token 0) and row r_{k+1} is response token k's own row: token k is the input.

    own:         token k is scored by r_{k+1}   (the paper's teacher-forced features)
    predicting:  token k is scored by r_k       (known before the token is released)

Log-probability and entropy always belong to the predicting row. Offline features, /score, JSON answers and streams all
align here and nowhere else.
"""

from collections.abc import Sequence
from typing import Literal, TypeVar

PositionRule = Literal["own", "predicting"]

T = TypeVar("T")


def first_row(rule: PositionRule) -> int:
    """Index k of the row r_k that scores response token 0."""
    return 1 if rule == "own" else 0


def rows_needed(rule: PositionRule, n_tokens: int) -> int:
    """How many rows r_0, r_1, ... must have been fed to score `n_tokens` response tokens."""
    return n_tokens + first_row(rule) if n_tokens else 0


def align_rows(rows: Sequence[T], n_tokens: int, rule: PositionRule) -> Sequence[T]:
    """The values of the response tokens, taken out of the values of the rows.

    Args:
        rows: One value a row, r_0 first; a trailing surplus is ignored. Lists, arrays and tensors are sliced alike.
        n_tokens: Response tokens, end-of-sequence excluded.
        rule: The probe's position rule.

    Returns:
        At most n_tokens values; fewer where rows have not been fed yet (a stream, a cancelled request).
    """
    start = first_row(rule)
    return rows[start : start + n_tokens]


def sequence_slice(n_prompt: int, n_tokens: int, rule: PositionRule) -> slice:
    """Where the scoring rows of a response stand in a whole teacher-forced sequence (prompt, then response)."""
    start = n_prompt - 1 + first_row(rule)
    return slice(start, start + n_tokens)
