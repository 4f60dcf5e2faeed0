"""The committed dashboards, and their queries as Grafana would send them."""

import json
import re
from dataclasses import dataclass
from typing import Any

from tests.monitoring.series import DASHBOARDS

PATHS = sorted(DASHBOARDS.glob("*.json"))
VARIABLES = {"$__rate_interval", "$__range", "$instance", "$probe"}


@dataclass(frozen=True)
class Query:
    """One line, or set of lines, of a panel."""

    board: str
    panel: str
    expression: str

    @property
    def label(self) -> str:
        return f"{self.board} / {self.panel}: {self.expression}"

    def filled(self, window: str) -> str:
        """With the variables as Grafana fills them in where everything is chosen.

        Args:
            window: In place of `$__rate_interval` and `$__range`, such as `10s`.
        """
        text = re.sub(r"\$__(rate_interval|range)", window, self.expression)
        text = re.sub(r"\$(instance|probe)\b", ".+", text)
        assert "$" not in text, text
        return text


def boards() -> dict[str, dict[str, Any]]:
    """File name without ending -> dashboard."""
    return {path.stem: json.loads(path.read_text()) for path in PATHS}


def queries() -> list[Query]:
    return [
        Query(name, panel["title"], target["expr"])
        for name, board in boards().items()
        for panel in board["panels"]
        for target in panel["targets"]
    ]
