"""The rules that Prometheus gets: valid, tested, explained, and about series that exist."""

import re
import shutil
import subprocess

import pytest
import yaml

from tests.monitoring.series import (
    ALERTMANAGER,
    PROMETHEUS,
    ROOT,
    RULES,
    TARGET_LABELS,
    alerts,
    exported,
    rules,
    series_in,
    unknown_in,
)

TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOK = ROOT / "docs" / "runbook.md"
PARTS = ("**Means.**", "**See.**", "**Do.**", "**Safe.**")
RULE_NAMES = [rule.get("alert", rule.get("record")) for rule in rules()]


def run(*command, **options):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: see tests/debian-packages.txt")
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def cases():
    """(series, alert tests) of each promtool test."""
    return [(test["input_series"], test["alert_rule_test"]) for path in TESTS for test in read(path)["tests"]]


def read(path):
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_promtool(path):
    done = run("promtool", "test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_rules_and_configuration():
    done = run("promtool", "check", "rules", *map(str, RULES))
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("promtool", "check", "config", "--syntax-only", str(PROMETHEUS / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("severity", ["critical", "warning", "info"])
def test_alertmanager_takes_its_configuration_and_every_severity_reaches_the_operator(severity):
    done = run("amtool", "check-config", str(ALERTMANAGER))
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}", f"severity={severity}")
    assert done.stdout.split() == ["operator"], done.stderr


def matching(matchers, group):
    """Places in a group of the alerts that the matchers name."""
    wanted = [re.fullmatch(r'(\w+)=~?"(.*)"', matcher).groups() for matcher in matchers]
    labels = [{"alertname": rule.get("alert", ""), **rule.get("labels", {})} for rule in group["rules"]]
    return [
        at for at, found in enumerate(labels) if all(re.fullmatch(one, found.get(name, "")) for name, one in wanted)
    ]


@pytest.mark.parametrize("rule", read(ALERTMANAGER)["inhibit_rules"], ids=lambda rule: rule["target_matchers"][0])
def test_what_an_alert_silences_ends_before_it(rule):
    """Groups are evaluated at times of their own: a target of another group would be told where both end at once."""
    groups = read(ROOT / "deploy/prometheus/rules/alerts.yml")["groups"]
    targets = [(group["name"], at) for group in groups for at in matching(rule["target_matchers"], group)]
    sources = [(group["name"], at) for group in groups for at in matching(rule["source_matchers"], group)]
    ((name, target),) = targets
    assert sources
    assert all(found == name and target < at for found, at in sources)


@pytest.mark.parametrize(("name", "rule"), list(zip(RULE_NAMES, rules(), strict=True)), ids=RULE_NAMES)
def test_every_series_of_a_rule_is_exported_or_recorded(name, rule):
    assert series_in(rule["expr"])
    assert unknown_in(rule["expr"]) == set()


def test_hazard_a_misspelt_series_or_label_passes():
    wrong = 'rate(hguard_requests_totl[5m]) / on (job) hguard_fail_open_total{resaon="x"} > bool inf'
    assert unknown_in(wrong) == {"hguard_requests_totl", "hguard_fail_open_total{resaon}"}


def test_series_of_the_promtool_tests_are_those_of_the_service():
    known = exported()
    for series, _ in cases():
        for one in series:
            name, _, inside = one["series"].partition("{")
            labels = set(re.findall(r'(\w+)="', inside))
            assert labels == known[name] | TARGET_LABELS, one["series"]


@pytest.mark.parametrize("name", alerts())
def test_every_alert_is_seen_to_fire_and_not_to_fire(name):
    seen = {bool(test.get("exp_alerts")) for _, tests in cases() for test in tests if test["alertname"] == name}
    assert seen == {True, False}


@pytest.mark.parametrize("name", alerts())
def test_every_alert_says_how_bad_it_is_and_where_to_read_on(name):
    entries = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text(), re.M | re.S))
    for rule in alerts()[name]:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["labels"]["severity"] in entries[name]
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
    at = [entries[name].find(part) for part in PARTS]
    assert -1 not in at
    assert at == sorted(at)


def test_the_runbook_has_no_entry_of_an_alert_that_is_gone():
    assert set(re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.M)) == alerts().keys()


def test_the_queries_of_the_runbook_are_valid_and_about_series_that_exist(tmp_path):
    queries = re.findall(r"```promql\n(.*?)```", RUNBOOK.read_text(), re.S)
    assert len(queries) > 10
    for query in queries:
        assert unknown_in(query) == set()
    path = tmp_path / "queries.yml"
    found = [{"record": f"query:{at}", "expr": query} for at, query in enumerate(queries)]
    path.write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": found}]}))
    done = run("promtool", "check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_limits_in_the_texts_are_those_of_the_expressions():
    """A limit that is changed in one place only would lie in the message that wakes somebody."""
    for name in ("HguardRiskDrift", "HguardCalibrationDrift"):
        (rule,) = alerts()[name]
        limit = re.search(r"> ([\d.]+)", rule["expr"]).group(1)
        assert f"; {limit} is the limit" in rule["annotations"]["description"]
