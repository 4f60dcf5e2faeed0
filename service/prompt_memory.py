"""Prompt memory: what was asked, by call id, until the answer comes; bounded in bytes and time, of this process."""

import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from service.schemas.prompt import Message

ENTRY_BYTES = 1024
"""Counted for an entry beside its text, so that many empty prompts have a bound, too."""


class _Entry(NamedTuple):
    conversation: tuple[Message, ...]
    n_bytes: int
    expires: float


class PromptMemory:
    """Oldest out first. An entry stays after it was read: a streamed answer is judged many times."""

    def __init__(
        self,
        *,
        limit_bytes: int,
        seconds: float,
        on_evicted: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty one.

        Args:
            limit_bytes: Of all conversations together.
            seconds: How long one is kept.
            on_evicted: Called for each that had to go before its time.
            clock: Seconds that never go back.
        """
        self._limit_bytes, self._seconds, self._on_evicted, self._clock = limit_bytes, seconds, on_evicted, clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self.n_bytes = 0

    def __len__(self) -> int:
        """Conversations held."""
        return len(self._entries)

    def keep(self, call_id: str, conversation: tuple[Message, ...]) -> None:
        """Remember a conversation; a newer one under the same id takes its place."""
        self._drop(call_id)
        now = self._clock()
        n_bytes = ENTRY_BYTES + sum(sys.getsizeof(message.content) for message in conversation)
        self._entries[call_id] = _Entry(conversation, n_bytes, now + self._seconds)
        self.n_bytes += n_bytes
        while self._entries:
            oldest = next(iter(self._entries))
            is_expired = self._entries[oldest].expires <= now
            if not is_expired and self.n_bytes <= self._limit_bytes:
                return
            self._drop(oldest)
            if not is_expired:
                self._on_evicted()

    def recall(self, call_id: str) -> tuple[Message, ...] | None:
        """The conversation; None where it was never kept, is too old, or had to go."""
        entry = self._entries.get(call_id)
        return entry.conversation if entry is not None and self._clock() < entry.expires else None

    def _drop(self, call_id: str) -> None:
        entry = self._entries.pop(call_id, None)
        if entry is not None:
            self.n_bytes -= entry.n_bytes
