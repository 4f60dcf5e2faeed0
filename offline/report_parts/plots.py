"""The report's figures. Each is drawn twice, for light and dark pages, and kept as SVG data and as a PNG file.

Figures are made without pyplot, so no window system and no global state is touched.
"""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from offline.report_parts.curves import GRID, Band, Bin, Curve
from offline.report_parts.slices import Slice

LIGHT = {"ink": "#1c2430", "faint": "#c9ced6"}
DARK = {"ink": "#e4e8ee", "faint": "#4a5260"}
COLOURS = {
    "light": ("#0b5fa5", "#c2410c", "#0f7b5f", "#8a3d9c", "#8a6500", "#5c6470", "#b0205f"),
    "dark": ("#6cb6ff", "#ff9b6a", "#5fd3b0", "#d6a0e8", "#e2c25a", "#aab3c0", "#ff8fb8"),
}
"""Chosen to differ in lightness too; line styles differ as well."""
STYLES = ("-", "-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

SETTLED = 0.05
"""Share of answers kept from which risk-coverage curves must be in sight."""

Draw = Callable[[Axes, Sequence[str]], None]
"""Draws on axes with the colours of a theme."""


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it."""

    name: str
    title: str
    alt: str
    light: str
    """Data address of the SVG."""
    dark: str


def draw(folder: Path, name: str, title: str, alt: str, on: Draw, *, height: float = 4.6) -> Picture:
    """Draw a figure for both kinds of page and write <name>.png.

    Args:
        folder: Where the PNG goes.
        name: File stem.
        title: Short, shown above it.
        alt: What the figure shows, for those who do not see it.
        on: Draws the content.
        height: Inches; the width is 5.4.
    """
    data = {}
    for theme, inks in (("light", LIGHT), ("dark", DARK)):
        with mpl.rc_context(_settings(inks)):
            figure = Figure(figsize=(5.4, height), layout="constrained")
            on(figure.add_subplot(), COLOURS[theme])
            file = io.BytesIO()
            figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
            data[theme] = "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()
            if theme == "light":
                figure.savefig(folder / f"{name}.png", dpi=160, facecolor="white", metadata={"Description": alt})
    return Picture(name, title, alt, **data)


def curves(
    lines: Mapping[str, Curve],
    band: Band,
    *,
    x: str,
    y: str,
    has_diagonal: bool,
    shaded: Mapping[str, Band] | None = None,
) -> Draw:
    """ROC or risk-coverage curves; the first line is drawn on top, with its band.

    Args:
        lines: Name -> points.
        band: Of the first line.
        x: Name of the axis.
        y: Name of the axis.
        has_diagonal: Whether to draw what a score without information gives.
        shaded: Other bands, such as the range of the random neurons.
    """

    def on(axes: Axes, colours: Sequence[str]) -> None:
        if has_diagonal:
            axes.plot([0, 1], [0, 1], color=mpl.rcParams["grid.color"], linewidth=1, zorder=1)
        else:
            _fit_height(axes, lines.values())
        for name, area in (shaded or {}).items():
            axes.fill_between(GRID, area.low, area.high, color=colours[5], alpha=0.3, linewidth=0, label=name)
        axes.fill_between(GRID, band.low, band.high, color=colours[0], alpha=0.2, linewidth=0)
        for number, (name, line) in enumerate(lines.items()):
            axes.plot(
                *line,
                color=colours[number % len(colours)],
                linestyle=STYLES[number % len(STYLES)],
                linewidth=2.2 if number == 0 else 1.4,
                label=name,
                zorder=10 - number,
            )
        axes.set(xlabel=x, ylabel=y, xlim=(0, 1))
        axes.figure.legend(loc="outside lower center", ncols=2)

    return on


def reliability(bins: Sequence[Bin]) -> Draw:
    """Share of hallucinations against the risk, a bar of its interval through each point."""

    def on(axes: Axes, colours: Sequence[str]) -> None:
        axes.plot([0, 1], [0, 1], color=mpl.rcParams["grid.color"], linewidth=1.2, label="perfect")
        below = [max(0.0, b.share - b.low) for b in bins]
        above = [max(0.0, b.high - b.share) for b in bins]
        axes.errorbar(
            [b.risk for b in bins],
            [b.share for b in bins],
            yerr=[below, above],
            fmt="o",
            color=colours[0],
            capsize=2.5,
            label=f"{len(bins)} bins of about {bins[0].rows} answers",
        )
        axes.set(xlabel="risk (mean of the bin)", ylabel="share of hallucinations", xlim=(0, 1), ylim=(-0.02, 1.02))
        axes.legend(loc="upper left")

    return on


def layers(n_layers: int, raising: NDArray[np.integer], lowering: NDArray[np.integer]) -> Draw:
    """Neurons by layer: H-neurons upwards, those of negative weight downwards.

    Args:
        n_layers: Of the model.
        raising: Layer of each H-neuron.
        lowering: Layer of each other selected neuron.
    """

    def on(axes: Axes, colours: Sequence[str]) -> None:
        up, down = (np.bincount(found, minlength=n_layers) for found in (raising, lowering))
        at = np.arange(n_layers)
        axes.bar(at, up, color=colours[1], label="H-neurons (weight above 0)")
        axes.bar(at, -down, color=colours[0], label="selected, weight below 0")
        axes.axhline(0, color=mpl.rcParams["axes.edgecolor"], linewidth=0.8)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(lambda count, _: f"{abs(count):.0f}")
        axes.set(xlabel="layer", ylabel="neurons")
        axes.figure.legend(loc="outside lower center", ncols=2)

    return on


def intervals(slices: Sequence[Slice]) -> Draw:
    """AUROC of several methods on each slice, with intervals."""

    def on(axes: Axes, colours: Sequence[str]) -> None:
        methods = list(slices[0].auroc)
        for number, method in enumerate(methods):
            values = [s.auroc[method] for s in slices]
            at = np.arange(len(slices)) + (number - (len(methods) - 1) / 2) * 0.18
            axes.errorbar(
                [v.value for v in values],
                at,
                xerr=[[v.value - v.low for v in values], [v.high - v.value for v in values]],
                fmt=MARKERS[number % len(MARKERS)],
                color=colours[number % len(colours)],
                markersize=4.5,
                label=method,
            )
        axes.axvline(0.5, color=mpl.rcParams["axes.edgecolor"], linewidth=0.8)
        axes.set_yticks(np.arange(len(slices)), [s.name for s in slices])
        axes.set(xlabel="AUROC with 95% interval; the line at 0.5 is chance", ylim=(len(slices) - 0.4, -0.6))
        axes.figure.legend(loc="outside lower center", ncols=2)

    return on


def _fit_height(axes: Axes, lines: Iterable[Curve]) -> None:
    """Leave room for what follows the first few answers, whose shares jump."""
    settled = np.concatenate([line.y[line.x >= SETTLED] for line in lines])
    margin = 0.05 * float(np.ptp(settled) or 1)
    axes.set_ylim(max(-0.02, settled.min() - margin), settled.max() + margin)


def _settings(inks: Mapping[str, str]) -> dict[Any, Any]:
    ink, faint = inks["ink"], inks["faint"]
    return {
        "font.size": 10,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": faint,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "svg.hashsalt": "hguard",
    }
