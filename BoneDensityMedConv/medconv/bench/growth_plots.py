"""Plots of the pipeline: its stages, the size of the CT, the number of cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medconv.bench.figures import Row
from medconv.bench.plots import BASELINE, COLOURS, GREY, blank, series_of, style
from medconv.bench.stages import AIM, READ, STAGES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def stages(rows: Sequence[Row]) -> Figure:
    """For each kind of file the stages one after another, above the plain read; a dashed line marks the aim."""
    groups = list(dict.fromkeys(row.point["group"] for row in rows))
    figure, panels = blank(1, 1, 10.0, 1.4 + 0.95 * len(groups))
    axes = panels[0, 0]
    seconds = {(row.point["group"], row.point["series"]): row.median or 0.0 for row in rows}
    for place, group in enumerate(groups):
        middle = len(groups) - 1 - place
        plain = seconds[group, "plain"]
        axes.barh(middle + 0.2, plain, 0.3, color=BASELINE, label=READ if not place else None)
        start = 0.0
        for number, (name, said) in enumerate(STAGES.items()):
            taken = seconds[group, name]
            label = said if not place else None
            axes.barh(middle - 0.17, taken, 0.34, left=start, color=COLOURS[number], label=label)
            start += taken
        axes.plot([AIM * plain] * 2, [middle - 0.4, middle + 0.4], color=GREY, linestyle="--", linewidth=1.2,
                  label=f"aim: {AIM:g} x the read" if not place else None)  # fmt: skip
        for seconds_told, height in ((start, middle - 0.17), (plain, middle + 0.2)):
            axes.annotate(
                f"{seconds_told:.2f} s", (seconds_told, height), (4, 0), textcoords="offset points", va="center",
                fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )  # fmt: skip
    axes.set_yticks(range(len(groups)), groups[::-1])
    axes.set(xlabel="Seconds")
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def volume(rows: Sequence[Row]) -> Figure:
    """Time and peak memory against the CT's size."""
    figure, panels = blank(1, 2, 11.0, 4.4)
    for place, (name, points) in enumerate(series_of(rows).items()):
        look = {"color": BASELINE, "linestyle": "--", "marker": "."} if name == READ else style(place - 1)
        x = [row.point["x"] for row in points]
        panels[0, 0].errorbar(
            x, [row.median for row in points], yerr=[row.spread or 0.0 for row in points], capsize=2, label=name, **look
        )
        if all(row.peak_mb is not None for row in points):
            panels[0, 1].plot(x, [row.peak_mb for row in points], label=name, **look)
    sizes = sorted({row.point["x"] for row in rows})
    panels[0, 1].plot(sizes, sizes, color=GREY, linewidth=0.9, linestyle=":", label="the CT's own voxels")
    for axes, label in zip(panels.flat, ("Seconds", "Peak memory of the process (MB)"), strict=True):
        axes.set(xlabel="CT (MB of 16-bit voxels)", ylabel=label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(color="#e5e7eb", linewidth=0.6)
        axes.legend(frameon=False, fontsize=8)
    return figure


def cohort(rows: Sequence[Row]) -> Figure:
    """Left: seconds against cases; right: memory, which should be flat."""
    figure, panels = blank(1, 2, 11.0, 4.2)
    found = series_of(rows)
    for place, (workers, points) in enumerate(found.items()):
        x = [row.point["x"] for row in points]
        name = f"{workers} worker{'s' if workers > 1 else ''}"
        panels[0, 0].plot(x, [row.median for row in points], label=name, **style(place))
        if all(row.peak_mb is not None for row in points):
            panels[0, 1].plot(x, [row.peak_mb for row in points], label=name, **style(place))
    one = found[min(found)]
    half = [(row.median or 0.0) / 2 for row in one]
    panels[0, 0].plot(
        [row.point["x"] for row in one], half, color=GREY, linestyle=":", linewidth=1, label="half of 1 worker's"
    )
    for axes, label in zip(panels.flat, ("Seconds, with the start", "Peak memory of all processes (MB)"), strict=True):
        axes.set(xlabel="Cases in the batch", ylabel=label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(color="#e5e7eb", linewidth=0.6)
        axes.legend(frameon=False, fontsize=9)
    return figure
