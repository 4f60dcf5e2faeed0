"""The few kinds of panels and variables that the dashboards are made of, as grafana-foundation-sdk builders."""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

RULES = Path(__file__).resolve().parents[1] / "prometheus" / "rules"
SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
PICKED = '{instance=~"$instance"}'
"""Selects the instances that are chosen at the top of a dashboard."""
Panel = stat.Panel | timeseries.Panel | heatmap.Panel
Query = tuple[str, str]
"""PromQL, and the legend of its lines."""


def limits_of(alert: str) -> list[float]:
    """The numbers that an alert compares with, in order, so that a line in a panel is where the alert fires."""
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    expressions = [rule["expr"] for group in groups for rule in group["rules"] if rule["alert"] == alert]
    pairs = re.findall(r"(?<!\() [<>]=? ([\d.]+)(?: \* ([\d.]+))?", " ".join(expressions))
    return [float(limit) * float(factor or 1) for limit, factor in pairs]


def number(title: str, text: str, *queries: Query, unit: str = "short", states: Sequence[str] = ()) -> stat.Panel:
    """A large number, or, where 0 and 1 have names (`states`, a bad one begins with `!`), one of two words."""
    panel = stat.Panel().title(title).description(text).datasource(SOURCE).unit(unit).span(6).height(5)
    panel = panel.text_mode(common.BigValueTextMode.AUTO).graph_mode(common.BigValueGraphMode.NONE)
    steps = [dashboard.Threshold(value=None, color="text")]
    if states:
        shown = {
            str(value): dashboard.ValueMappingResult(
                text=state.lstrip("!"), color="red" if state.startswith("!") else "green", index=value
            )
            for value, state in enumerate(states)
        }
        panel = panel.mappings([dashboard.ValueMap(options=shown)]).color_mode(common.BigValueColorMode.BACKGROUND)
    return _ask(panel.thresholds(_steps(steps)), queries, is_instant=True)


def names(title: str, text: str, *queries: Query) -> stat.Panel:
    """Series whose value is 1 and whose legend is what they say."""
    panel = number(title, text, *queries).span(12).text_mode(common.BigValueTextMode.NAME)
    return panel.color_mode(common.BigValueColorMode.NONE)


def lines(
    title: str, text: str, *queries: Query, unit: str = "short", limit: float | None = None, is_share: bool = False
) -> timeseries.Panel:
    """Lines over time; a red one at the limit of an alert."""
    panel = timeseries.Panel().title(title).description(text).datasource(SOURCE).unit(unit).span(12).height(8)
    panel = panel.fill_opacity(8).min(0).show_points(common.VisibilityMode.AUTO)
    panel = panel.tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    if is_share:
        panel = panel.max(1).unit("percentunit")
    if limit is not None:
        steps = [dashboard.Threshold(value=None, color="green"), dashboard.Threshold(value=limit, color="red")]
        style = common_builders.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED)
        panel = panel.thresholds(_steps(steps)).thresholds_style(style)
    return _ask(panel, queries)


def heat(title: str, text: str, expression: str) -> heatmap.Panel:
    """Buckets of a histogram over time; the darker, the more."""
    color = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    panel = heatmap.Panel().title(title).description(text).datasource(SOURCE).span(12).height(9)
    panel = (
        panel.calculate(False)
        .color(color)
        .y_axis(heatmap.YAxisConfig().unit("short").decimals(2))
        .cell_gap(1)
        .show_tooltip()
    )
    query = prometheus.Dataquery().expr(expression).legend_format("{{le}}").ref_id("A").range()
    return panel.with_target(query.format(PromQueryFormat.HEATMAP))


def quantiles(histogram: str, *which: float, by: str = "", picked: str = PICKED) -> list[Query]:
    """Of a histogram, estimated inside its buckets; one line each and for each value of the label `by`."""
    kept, name = (f"le, {by}", f"{{{{{by}}}}} ") if by else ("le", "")
    rates = f"sum by ({kept}) (rate({histogram}_bucket{picked}[$__rate_interval]))"
    return [(f"histogram_quantile({at}, {rates})", f"{name}{at:.0%}") for at in which]


def rate(counter: str, by: str = "", more: str = "") -> str:
    """Of a counter a second, over the chosen instances."""
    picked = f'{{instance=~"$instance"{", " + more if more else ""}}}'
    return f"sum {f'by ({by}) ' if by else ''}(rate({counter}{picked}[$__rate_interval]))"


def board(uid: str, title: str, text: str, panels: Sequence[Panel], *, has_probe: bool = False) -> dashboard.Dashboard:
    """A dashboard with its variables and the links to the others; panels flow from left to right."""
    instance = _variable("instance", "which replicas", "label_values(hguard_build_info, instance)")
    made = (
        builders.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags(["hguard"])
        .readonly()
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .link(
            builders.DashboardLink("hguard")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags(["hguard"])
            .keep_time(True)
        )
        .with_variable(builders.DatasourceVariable("datasource").label("data source").type("prometheus"))
        .with_variable(instance)
    )
    if has_probe:
        query = 'label_values(hguard_response_risk_count{role="active"}, probe)'
        made = made.with_variable(_variable("probe", "which served probes, as name@version", query))
    for at, panel in enumerate(panels, 1):
        made = made.with_panel(panel.id(at))
    return made.build()


def _ask(panel: Panel, queries: Sequence[Query], *, is_instant: bool = False) -> Panel:
    for at, (expression, legend) in enumerate(queries):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + at))
        panel = panel.with_target(query.instant() if is_instant else query.range())
    return panel


def _steps(steps: list[dashboard.Threshold]) -> builders.ThresholdsConfig:
    return builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _variable(name: str, text: str, query: str) -> builders.QueryVariable:
    every = dashboard.VariableOption(text="All", value="$__all", selected=True)
    variable = builders.QueryVariable(name).label(name).description(text).datasource(SOURCE).query(query)
    variable = variable.multi(True).include_all(True).all_value(".+").current(every)
    return variable.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        dashboard.VariableSort.ALPHABETICAL_ASC
    )
