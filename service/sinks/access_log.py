"""Access log: one line a request, without any text of it."""

import logging
from typing import Any

from service.observe.record import RequestRecord

logger = logging.getLogger("hguard.access")

_POLLED = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked every few seconds by machines: logged at debug level while all is well."""


class AccessLog:
    """Writes to the logger `hguard.access`."""

    def write(self, record: RequestRecord) -> None:
        """Log one request."""
        level = logging.WARNING if record.status >= 500 else logging.INFO
        if record.route in _POLLED:
            level = logging.DEBUG
        logger.log(level, "%s %s %d", record.method, record.route, record.status, extra={"fields": describe(record)})

    def close(self) -> None:
        """Nothing is kept back."""


def describe(record: RequestRecord) -> dict[str, Any]:
    """The fields of the line; numbers and names of ours only. Those of choice 0 where there are several."""
    fields: dict[str, Any] = {
        "route": record.route,
        "method": record.method,
        "status": record.status,
        "duration_s": round(record.seconds, 6),
        "action": record.action,
        "caller": record.caller,
        "error": record.error,
    }
    if record.asked is not None:
        fields |= {"policy": record.asked.guard.policy, "prompt_tokens": record.asked.n_prompt_tokens}
    if record.answered is not None:
        first = record.answered.choices[0]
        fields |= {
            "id": record.answered.response_id,
            "finish": first.finish_reason,
            "completion_tokens": record.answered.n_tokens,
            "guard_status": first.judgement.status,
            "risk": None if first.judgement.risk is None else round(first.judgement.risk, 4),
        }
    return {name: value for name, value in fields.items() if value is not None}
