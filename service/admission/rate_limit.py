"""Rate limits: how many requests and tokens a minute each caller gets, as token buckets that hold a minute's worth."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.admission.auth import Caller


@dataclass(slots=True)
class _Bucket:
    level: float
    filled: float
    """When `level` was true."""


class RateLimits:
    """The buckets of all callers; there are as many callers as the operator gave keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests: dict[str, _Bucket] = {}
        self._tokens: dict[str, _Bucket] = {}

    def take_request(self, caller: Caller) -> float:
        """Take one request; 0, or the seconds until there is one to take."""
        return self._take(self._requests, caller.name, caller.limits.requests_per_minute, 1)

    def take_tokens(self, caller: Caller, n_tokens: int) -> float:
        """Take a request's tokens; 0, or the seconds until they are there.

        A request that is larger than the whole bucket takes a full one, and the caller waits for longer after it: it
        could never be served otherwise.
        """
        return self._take(self._tokens, caller.name, caller.limits.tokens_per_minute, n_tokens)

    def _take(self, buckets: dict[str, _Bucket], name: str, per_minute: int | None, amount: int) -> float:
        if per_minute is None:
            return 0.0
        now = self._clock()
        bucket = buckets.setdefault(name, _Bucket(per_minute, now))
        bucket.level = min(per_minute, bucket.level + (now - bucket.filled) * per_minute / 60)
        bucket.filled = now
        missing = min(amount, per_minute) - bucket.level
        if missing > 1e-9 * per_minute:  # what refilling in small steps loses to rounding
            return missing * 60 / per_minute
        bucket.level -= amount
        return 0.0


def whole_seconds(seconds: float) -> int:
    """For Retry-After: at least one."""
    return max(1, math.ceil(seconds))
