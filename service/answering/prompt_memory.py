"""Prompt memory: what was asked, by call id, until the answer comes; bounded in bytes and time, of this process."""

import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from service.schemas.prompt import Message

ENTRY_BYTES = 1024
"""Counted for an entry beside its text, so that many empty prompts have a bound, too."""

Forgotten = Literal["expired", "evicted"]


@dataclass(slots=True)
class _Entry:
    conversation: tuple[Message, ...]
    n_bytes: int
    expires: float
    is_read: bool = False


class PromptMemory:
    """Oldest out first. An entry stays after it was read: a streamed answer is judged many times."""

    def __init__(
        self,
        *,
        limit_bytes: int,
        seconds: float,
        on_unread: Callable[[Forgotten], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty one.

        Args:
            limit_bytes: Of all conversations together.
            seconds: How long one is kept.
            on_unread: Called for each that goes before anybody has asked for it, with the reason.
            clock: Seconds that never go back.
        """
        self._limit_bytes, self._seconds, self._on_unread, self._clock = limit_bytes, seconds, on_unread, clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self.n_bytes = 0

    def __len__(self) -> int:
        """Conversations held."""
        return len(self._entries)

    def keep(self, call_id: str, conversation: tuple[Message, ...]) -> None:
        """Remember a conversation; a newer one under the same id takes its place."""
        self._pop(call_id)
        n_bytes = ENTRY_BYTES + sum(sys.getsizeof(message.content) for message in conversation)
        self._entries[call_id] = _Entry(conversation, n_bytes, self._clock() + self._seconds)
        self.n_bytes += n_bytes
        self.tidy()
        while self.n_bytes > self._limit_bytes:
            self._forget_oldest("evicted")

    def recall(self, call_id: str) -> tuple[Message, ...] | None:
        """The conversation; None where it was never kept, is too old, or had to go."""
        self.tidy()
        entry = self._entries.get(call_id)
        if entry is None:
            return None
        entry.is_read = True
        return entry.conversation

    def tidy(self) -> None:
        """Forget what is too old."""
        now = self._clock()
        while self._entries and next(iter(self._entries.values())).expires <= now:
            self._forget_oldest("expired")

    def _forget_oldest(self, reason: Forgotten) -> None:
        if not self._pop(next(iter(self._entries))).is_read:
            self._on_unread(reason)

    def _pop(self, call_id: str) -> _Entry:
        entry = self._entries.pop(call_id, None) or _Entry((), 0, 0.0)
        self.n_bytes -= entry.n_bytes
        return entry
