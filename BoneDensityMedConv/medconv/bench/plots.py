"""The plots of the bench as PNG, from its document alone. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medconv.bench.figures import Row
from medconv.packages import how_to_install
from medconv.types import MissingRequirement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
# Told apart by people with red-green blindness as well (Okabe and Ito 2008); black for baselines.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D1F", "#6b7280")
MARKERS = "osD^vPX*"
BASELINE, GREY, AIM_COLOUR = "#1b1f24", "#6b7280", "#b91c1c"


def all_plots(document: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG by file name, those that there are figures for. Raises MissingRequirement without matplotlib."""
    from medconv.bench import growth_plots, network_plots

    along_x = {"batch", "transformers", "volume", "cohort"}  # one point is no line: the table says it better
    drawn: Mapping[str, Callable[[Sequence[Row]], Figure]] = {
        "network": network_plots.network,
        "batch": network_plots.batch,
        "transformers": network_plots.transformers,
        "stages": growth_plots.stages,
        "volume": growth_plots.volume,
        "cohort": growth_plots.cohort,
        "panel": growth_plots.panel,
    }
    pictures = {}
    for section, fields in document["sections"].items():
        rows = [row for row in map(Row.from_json, fields["rows"]) if row.median is not None]
        for name, draw in drawn.items():
            points = [row for row in rows if row.point.get("plot") == name]
            if points and (name not in along_x or len({row.point["x"] for row in points}) > 1):
                title = section if name == section else f"{section}-{name}"
                pictures[f"{title}.png"] = png(draw(points))
    return pictures


def blank(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure and its panels, plain."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingRequirement(
            "matplotlib_missing", "Plots need the package matplotlib.", how_to_install("batch")
        ) from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    panels: Any = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_size(9)
        axes.yaxis.label.set_size(9)
    return figure, panels


def series_of(rows: Sequence[Row]) -> dict[Any, list[Row]]:
    """Points by series, in the order in which they first appear, each sorted along x."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row.point["series"], []).append(row)
    return {name: sorted(points, key=lambda row: row.point.get("x", 0)) for name, points in found.items()}


def logarithmic(axes: Axes) -> None:
    """A logarithmic y axis with 1, 2, 5, 10 … as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.6)


def style(place: int) -> dict[str, Any]:
    """Colour and marker of the series at that place."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], "markersize": 5}


def png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
