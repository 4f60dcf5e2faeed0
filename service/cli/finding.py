"""Finding: one line of `hguard doctor`."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it."""

    check: str
    level: Level
    found: str
    fix: str = ""
    """Empty where nothing has to be mended."""
