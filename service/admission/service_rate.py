"""Service rate: how fast requests were finished lately, for an estimate of when one that was sent away fits."""

from collections import deque
from collections.abc import Callable

_WINDOW_SECONDS = 60.0


class ServiceRate:
    """Requests finished in the last minute, or since the engine last had nothing to do."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._finished: deque[float] = deque()

    def restart(self) -> None:
        """The engine was idle until now: the time in which nobody came says nothing."""
        self._began = self._clock()
        self._finished.clear()

    def note_finished(self) -> None:
        """A request has been finished."""
        self._finished.append(self._clock())
        self._forget()

    def seconds_for(self, n_requests: int) -> float:
        """In which so many have probably been finished; where none was, as long as none was."""
        self._forget()
        passed = min(_WINDOW_SECONDS, self._clock() - self._began)
        return n_requests * passed / len(self._finished) if self._finished else passed

    def _forget(self) -> None:
        while self._finished and self._finished[0] < self._clock() - _WINDOW_SECONDS:
            self._finished.popleft()
