"""Writes the dashboards: `python -m deploy.grafana.make_dashboards`. The JSON is committed; a test compares it.

What is measured is in docs/api.md (Metrics), what an alert means in docs/runbook.md; limits are read from the alerts.
"""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.boards.drift import drift
from deploy.grafana.boards.guard_health import guard_health
from deploy.grafana.boards.resources import resources
from deploy.grafana.boards.risk import risk
from deploy.grafana.boards.serving import serving

FOLDER = Path(__file__).resolve().parent / "dashboards"


def dashboards() -> dict[str, str]:
    """File name -> its text."""
    made = {
        "guard-health.json": guard_health(),
        "risk.json": risk(),
        "serving.json": serving(),
        "drift.json": drift(),
        "resources.json": resources(),
    }
    return {name: json.dumps(one, cls=JSONEncoder, indent=1, sort_keys=True) + "\n" for name, one in made.items()}


def main() -> None:
    """Write them."""
    for name, text in dashboards().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
