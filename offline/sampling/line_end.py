r"""Where a base model's answer ends: before the first newline after some text.

A model with a chat template ends its answers itself; a base model goes on with the next question. Its answer is the
first line, as the service gives it with `"stop": ["\n"]`, but for newlines before any text, which end nothing here. A
token that begins before the newline and holds it is kept, as there.
"""

import re
from collections.abc import Sequence
from typing import Any

from probes.spans import token_offsets

_LINE = re.compile(r"\s*\S[^\n]*(?=\n)")


class LineEnd:
    """Ends the answers of one model; those of a model with a chat template never."""

    def __init__(self, tokenizer: Any) -> None:
        """Look for the newlines in the vocabulary: a second for 262,144 tokens.

        Args:
            tokenizer: Of the model.
        """
        self._tokenizer = tokenizer
        ids = () if tokenizer.chat_template else range(len(tokenizer))
        self.token_ids = frozenset(token for token in ids if "\n" in tokenizer.decode([token]))
        """Tokens that can end an answer; none where there is a chat template."""

    def cut(self, token_ids: Sequence[int]) -> list[int] | None:
        """The tokens of an answer that its last token ends.

        Args:
            token_ids: What was generated so far, at least one token; the answer did not end before the last of them.

        Returns:
            The answer's tokens; None where it goes on.
        """
        if token_ids[-1] not in self.token_ids:
            return None
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        line = _LINE.match(text)
        if line is None:
            return None
        offsets = token_offsets(self._tokenizer, token_ids)
        return [token for token, (start, _) in zip(token_ids, offsets, strict=True) if start < line.end()]
