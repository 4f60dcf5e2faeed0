"""The dashboards: what their program writes, readable by Grafana's own SDK, about series that exist, for newcomers."""

import json
import re

import pytest
import yaml

from tests.monitoring.dashboards import PATHS, VARIABLES, boards, queries
from tests.monitoring.series import ROOT, alerts, unknown_in

GRAFANA = ROOT / "deploy" / "grafana"
QUERIES = queries()


def cells(panel):
    at = panel["gridPos"]
    return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}


def test_the_committed_files_are_what_the_program_writes():
    make = pytest.importorskip("deploy.grafana.make_dashboards")
    written = make.dashboards()
    assert {path.name for path in PATHS} == written.keys()
    for path in PATHS:
        assert path.read_text() == written[path.name], f"python -m deploy.grafana.make_dashboards writes another {path}"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_grafanas_sdk_reads_what_was_written(path):
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    written = json.loads(path.read_text())
    board = models.Dashboard.from_json(written)
    read = json.loads(json.dumps(board, cls=JSONEncoder))
    assert read["templating"] == written["templating"]
    for one, other in zip(read["panels"], written["panels"], strict=True):
        assert {**one, "fieldConfig": 0} == {**other, "fieldConfig": 0}
    assert all(target.expr for panel in board.panels for target in panel.targets)


@pytest.mark.parametrize("name", boards())
def test_no_panel_covers_another_or_leaves_the_grid(name):
    taken = set()
    for panel in boards()[name]["panels"]:
        own = cells(panel)
        assert own
        assert not own & taken, panel["title"]
        assert max(x for x, _ in own) < 24, panel["title"]
        taken |= own
    # And no row has a hole in its middle: what comes next begins where something ended.
    assert {y for _, y in taken} == set(range(max(y for _, y in taken) + 1))


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.label[:80])
def test_every_series_and_label_of_a_panel_is_exported_or_recorded(query):
    assert unknown_in(query.expression) == set()
    assert set(re.findall(r"\$\w+", query.expression)) <= VARIABLES
    assert not re.search(r"\[\d", query.expression), "a window that ignores the zoom"


@pytest.mark.parametrize("name", boards())
def test_every_panel_says_what_it_shows_and_what_to_think_of_it(name):
    board = boards()[name]
    assert board["uid"].startswith("hguard-")
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len({panel["title"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert len(panel["description"].split()) >= 4, panel["title"]
        assert panel["type"] == "heatmap" or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for named in re.findall(r"\bHguard\w+", panel["description"]):
            assert named in alerts(), panel["title"]


def test_the_dashboards_show_what_every_alert_is_about():
    shown = {name for board in boards().values() for name in re.findall(r"\bHguard\w+", json.dumps(board))}
    assert alerts().keys() - shown == {"HguardMissing"}  # there is nothing to show


@pytest.mark.parametrize(
    ("title", "limit"),
    [
        ("Shift of the risks (PSI)", 0.25),
        ("Calibration error (ECE)", 0.12),
        ("First tokens over 2.5 s", 0.144),
        ("First tokens over 2.5 s, slowly", 0.06),
        ("Use of the queue", 0.8),
        ("Requests refused by the queue", 0.05),
        ("Active and shadow disagree", 0.2),
    ],
)
def test_the_red_line_is_where_the_alert_fires(title, limit):
    (panel,) = [panel for board in boards().values() for panel in board["panels"] if panel["title"] == title]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [step["value"] for step in steps] == [None, pytest.approx(limit)]
    (named,) = re.findall(r"\bHguard\w+", panel["description"]) or ["HguardFirstTokenSlow"]
    factors = {0.144: "14.4 * 0.01", 0.06: "6 * 0.01"}
    assert any(f"> {factors.get(limit, limit)}" in rule["expr"] for rule in alerts()[named])


def test_grafana_finds_its_dashboards_and_its_source():
    (source, manager) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    assert manager["url"] == "http://alertmanager:9093"
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/hguard.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
