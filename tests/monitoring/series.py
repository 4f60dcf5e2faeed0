"""Which series the service exports and which ones an expression names; the rules as they are written."""

import re
from pathlib import Path
from typing import Any

import yaml

from service.engines.fake_probe import fake_artifact
from service.feedback.drift import Drift, DriftCollector
from service.observe.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTMANAGER = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))

TARGET_LABELS = frozenset({"job", "instance"})
"""What Prometheus adds to each series of a target."""
FROM_PROMETHEUS = {
    "up": frozenset(),
    "scrape_duration_seconds": frozenset(),
    "ALERTS": frozenset({"alertname", "alertstate", "severity"}),
}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}

_WORDS = frozenset({"and", "or", "unless", "bool"})
_SERIES = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?![a-zA-Z0-9_:]*\s*\()")


def exported() -> dict[str, frozenset[str]]:
    """Sample name -> its labels, of all that `GET /metrics` may show."""
    metrics = Metrics()
    found: dict[str, frozenset[str]] = {**FROM_PROMETHEUS}
    for collector in metrics.registry._collector_to_names:
        labels = frozenset(getattr(collector, "_labelnames", ()))
        for family in collector.collect():
            for suffix in SUFFIXES[family.type]:
                found[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    metrics.registry.register(DriftCollector(Drift(fake_artifact, 1000)))
    found |= {f"hguard_risk_{name}": frozenset() for name in ("psi", "ece", "precision")}
    return found | {"hguard_risk_window_rows": frozenset({"kind"})}


def rules() -> list[dict[str, Any]]:
    """Every rule of every file."""
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, list[dict[str, Any]]]:
    """Name -> its rules."""
    found: dict[str, list[dict[str, Any]]] = {}
    for rule in rules():
        if "alert" in rule:
            found.setdefault(rule["alert"], []).append(rule)
    return found


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def series_in(expression: str) -> set[str]:
    """Names of the series in an expression."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\boffset\s+\d+[smhd]', "", expression)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    return {name for name in _SERIES.findall(bare) if name not in _WORDS and name.lower() not in ("inf", "nan")}


def selectors_in(expression: str) -> list[tuple[str, set[str]]]:
    """(name, labels) of each series that is picked by labels."""
    found = re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}", expression)
    return [(name, set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', inside))) for name, inside in found]


def unknown_in(expression: str) -> set[str]:
    """Series, and labels of series, that nobody exports or records."""
    known = exported()
    missing = series_in(expression) - known.keys() - recorded()
    for name, labels in selectors_in(expression):
        allowed = known.get(name, frozenset()) | TARGET_LABELS
        missing |= {f"{name}{{{label}}}" for label in labels - allowed if name in known}
    return missing
