"""Role: what a probe does in a service."""

from typing import Literal

Role = Literal["active", "shadow", "canary"]
"""`active` answers; `shadow` is scored beside it and never served; `canary` answers a share of the requests."""
