"""Plots of the pipeline: its stages, the size of the CT, the number of cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medconv.bench.figures import Row, number
from medconv.bench.growth_cohort import AIM as COHORT_AIM
from medconv.bench.panel_click import AIM_S
from medconv.bench.plots import AIM_COLOUR, BASELINE, COLOURS, GREY, blank, series_of, style
from medconv.bench.settings import FULL_SLICES
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
        for colour, (name, said) in zip(COLOURS, STAGES.items(), strict=True):
            taken = seconds[group, name]
            label = said if not place else None
            axes.barh(middle - 0.17, taken, 0.34, left=start, color=colour, label=label)
            start += taken
        axes.plot([AIM * plain] * 2, [middle - 0.42, middle + 0.42], color=AIM_COLOUR, linestyle=":", linewidth=1.6,
                  label=f"aim: {AIM:g} x the read (of {FULL_SLICES} slices)" if not place else None)  # fmt: skip
        for end, height, told in (
            (start, middle - 0.17, f"{start:.2f} s: {start / plain:.2f} x"), (plain, middle + 0.2, f"{plain:.2f} s"),
        ):  # fmt: skip
            axes.annotate(
                told, (end, height), (4, 0), textcoords="offset points", va="center",
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
    one, most = ([row.median or 0.0 for row in found[workers]] for workers in (min(found), max(found)))
    panels[0, 0].plot(
        [row.point["x"] for row in found[min(found)]], [most[0] + COHORT_AIM * (taken - one[0]) for taken in one],
        color=AIM_COLOUR, linestyle=":", linewidth=1.4, label=f"aim: {1 / COHORT_AIM:g} times 1 worker's rate",
    )  # fmt: skip
    for axes, label in zip(panels.flat, ("Seconds, with the start", "Peak memory of all processes (MB)"), strict=True):
        axes.set(xlabel="Cases in the batch", ylabel=label)
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
        axes.grid(color="#e5e7eb", linewidth=0.6)
        axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def panel(rows: Sequence[Row]) -> Figure:
    """Seconds from click to class for each state of the worker; dotted the aim."""
    figure, panels = blank(1, 1, 8.0, 1.3 + 0.4 * len(rows))
    axes = panels[0, 0]
    names = [row.point["series"].removeprefix("click to class, ") for row in rows]
    medians, spreads = [row.median or 0.0 for row in rows], [row.spread or 0.0 for row in rows]
    colours = [BASELINE if row.aim is None else COLOURS[0] for row in rows]
    axes.barh(names, medians, xerr=spreads, color=colours, height=0.6, error_kw={"ecolor": GREY, "capsize": 2})
    for place, (median, spread) in enumerate(zip(medians, spreads, strict=True)):
        axes.annotate(
            f"{number(median)} s", (median + spread, place), (6, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.axvline(AIM_S, color=AIM_COLOUR, linestyle=":", linewidth=1.6)
    axes.annotate(
        f"aim: {AIM_S:g} s", (AIM_S, 1.0), (0, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
        ha="center", fontsize=8, color=AIM_COLOUR,
    )  # fmt: skip
    axes.set(xlabel="Seconds from click to class (black: the baseline)")
    axes.margins(x=0.15)
    axes.set_xlim(left=0)
    return figure
