"""Plots of the network: runtimes at each input, batches, and transformers beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medconv.bench.figures import Row, number
from medconv.bench.nets import AUTHORS
from medconv.bench.network_passes import FASTER, FULL_WIDTH
from medconv.bench.plots import AIM_COLOUR, BASELINE, COLOURS, GREY, blank, logarithmic, series_of, style
from medconv.bench.transformers import MEDCONV

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def network(rows: Sequence[Row]) -> Figure:
    """A panel for each input: a bar a runtime, the fastest on top; dashed the baseline, dotted the aims."""
    groups = list(dict.fromkeys(row.point["group"] for row in rows))
    tallest = max(sum(row.point["group"] == group for row in rows) for group in groups)
    figure, panels = blank(1, len(groups), 5.4 * len(groups), 1.5 + 0.36 * tallest)
    for axes, group in zip(panels.flat, groups, strict=True):
        own = sorted((row for row in rows if row.point["group"] == group), key=lambda row: -(row.median or 0))
        _bars(axes, own)
        baseline = next((row.median for row in own if row.point["series"] == AUTHORS), None)
        if baseline is not None:
            axes.axvline(baseline, color=BASELINE, linewidth=0.8, linestyle="--", zorder=0)
            for faster in sorted(FASTER.values()) if group.startswith(FULL_WIDTH) else ():
                axes.axvline(baseline / faster, color=AIM_COLOUR, linewidth=1.2, linestyle=":")
                axes.annotate(
                    f"{faster:g} x", (baseline / faster, 1.0), (0, 2), xycoords=("data", "axes fraction"),
                    textcoords="offset points", ha="center", fontsize=7.5, color=AIM_COLOUR,
                )  # fmt: skip
        axes.set_title(group, fontsize=10, pad=14)
        axes.set(xlabel="ms a pass")
        axes.tick_params(axis="y", length=0, labelsize=8)
    figure.supxlabel(
        f"x: times faster than the authors' configuration (dashed); dotted: aims, {FASTER[True]:g} with and "
        f"{FASTER[False]:g} without extra packages; GEMM: the computer's matrix product", fontsize=8, color=GREY,
    )  # fmt: skip
    return figure


def _bars(axes: Axes, own: Sequence[Row]) -> None:
    names = [
        "authors' (timm_3d, eager,\nthree channels)" if r.point["series"] == AUTHORS else r.point["series"] for r in own
    ]
    medians, spreads = [row.median or 0.0 for row in own], [row.spread or 0.0 for row in own]
    colours = [BASELINE if row.point["series"] == AUTHORS else COLOURS[0] for row in own]
    axes.barh(names, medians, xerr=spreads, color=colours, height=0.7, error_kw={"ecolor": GREY, "capsize": 2})
    widest = max(median + spread for median, spread in zip(medians, spreads, strict=True))
    axes.set_xlim(0, 1.75 * widest)
    for place, row in enumerate(own):
        text = f"{number(row.median or 0.0)} ms" + (f", {1 / row.ratio:.1f} x" if row.ratio else "")
        share = f", {row.share:.0%} of GEMM" if row.share is not None else ""
        axes.annotate(
            text + share, (medians[place] + spreads[place], place), (6, 0), textcoords="offset points",
            va="center", fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip


def batch(rows: Sequence[Row]) -> Figure:
    """Milliseconds a case against the number handed over at once."""
    figure, panels = blank(1, 1, 7.4, 4.4)
    axes = panels[0, 0]
    for place, (name, points) in enumerate(series_of(rows).items()):
        x, y = [row.point["x"] for row in points], [row.median for row in points]
        if name == AUTHORS:
            axes.plot(x, y, color=BASELINE, linestyle="--", marker=".", label=AUTHORS)
        else:
            axes.plot(x, y, label=name, **style(place - 1))
    axes.set_xscale("log", base=2)
    counts = sorted({row.point["x"] for row in rows})
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.set(xlabel="Cases in one batch", ylabel="ms a case")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.6)
    axes.set_title("ResNet-50, 64³", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def transformers(rows: Sequence[Row]) -> Figure:
    """Time, operations and memory against the input's voxels, for each network; dashed: in OpenVINO."""
    figure, panels = blank(1, 3, 14.0, 4.6)
    found = series_of(rows)
    plain = [name for name in found if not name.endswith(", OpenVINO")]
    for name, points in found.items():
        base = name.removesuffix(", OpenVINO")
        look = style(plain.index(base)) | {"linestyle": "-" if name == base else "--", "label": name}
        look["linewidth"] = 2.4 if base == MEDCONV else 1.3
        values = (
            [row.median for row in points], [row.point["gflop"] for row in points], [row.peak_mb for row in points],
        )  # fmt: skip
        for axes, y in zip(panels.flat, values, strict=True):
            if all(value is not None for value in y) and (name == base or axes is panels[0, 0]):
                axes.plot([row.point["x"] for row in points], y, **look)
    from matplotlib.ticker import NullLocator

    ticks = {row.point["x"]: row.point["said"] for row in rows}
    labels = ("Time of a pass (ms)", "Operations of a pass (GFLOP)", "Peak memory of the process (MB)")
    for axes, label in zip(panels.flat, labels, strict=True):
        axes.set_xscale("log")
        if axes is panels[0, 2]:
            axes.set_ylim(bottom=0)
            axes.grid(axis="y", color="#e5e7eb", linewidth=0.6)
        else:
            logarithmic(axes)
        axes.set_xticks(list(ticks), list(ticks.values()), rotation=30, ha="right", fontsize=8)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="Input (voxels)", ylabel=label)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure
