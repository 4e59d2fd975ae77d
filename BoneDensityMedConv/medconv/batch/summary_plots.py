"""The pictures of a quality summary as PNG: classes, HU by class against training, reasons, time. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from medconv.batch.jobs import Status
from medconv.batch.summary_advice import spoken
from medconv.batch.summary_rows import Rows
from medconv.config import CLASS_ORDER, ModelCard
from medconv.packages import how_to_install
from medconv.population import Spread
from medconv.types import FloatArray, MissingRequirement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 130
# Told apart by people with red-green blindness as well (Okabe and Ito 2008).
CLASS_COLOURS = ("#0072B2", "#E69F00", "#C2410C")
STATUS_COLOURS = {Status.REFUSED: "#8a8f98", Status.FAILED: "#C2410C", Status.SET_ASIDE: "#111827"}
INK, TRAINING = "#2b2f36", "#111827"
BAR_HEIGHT_IN = 0.3
MOST_BARS = 16
HU_BINS = 30
FEWEST = 5  # answered CTs of a histogram; fewer stand in the table better


def all_plots(document: Mapping[str, Any], seen: Rows, card: ModelCard | None) -> dict[str, bytes]:
    """PNG by name, those that there is something to show for. Raises MissingRequirement without matplotlib."""
    population = card.population if card else None
    trained_on = population.quantities.get("hu_mean") if population else None
    drawn = {}
    if seen.classes.total():
        drawn["classes"] = _png(classes(document))
    if seen.classes.total() >= FEWEST:
        drawn["hu"] = _png(attenuation(seen.column("hu_mean"), np.array(seen.given, int), trained_on))
    if document["unanswered"]:
        drawn["reasons"] = _png(reasons(document["unanswered"]))
    if document["time"]["stages"]:
        drawn["time"] = _png(time(document["time"]["stages"]))
    return drawn


def classes(document: Mapping[str, Any]) -> Figure:
    """Shares of the classes with their Wilson intervals, and those of training."""
    figure, axes = _figure(6.4, 2.8)
    for place, (name, colour) in enumerate(zip(CLASS_ORDER, CLASS_COLOURS, strict=True)):
        found = document["classes"][str(name)]
        share = 100 * found["share"]
        axes.barh(place, share, color=colour, height=0.62)
        errors = 100 * np.array([[found["share"] - found["low"]], [found["high"] - found["share"]]])
        axes.errorbar(share, place, xerr=errors, color=INK, capsize=3, linewidth=1.2)
        end = 100 * max(found["high"], found["share_in_training"] or 0.0)
        axes.annotate(f"{share:.0f} % ({found['cases']})", (end, place), xytext=(6, 0), textcoords="offset points",
                      va="center", fontsize=9)  # fmt: skip
        if found["share_in_training"] is not None:
            told = "Given in training" if place == 0 else None
            axes.plot([100 * found["share_in_training"]] * 2, [place - 0.4, place + 0.4], color=TRAINING, label=told)
    axes.set(yticks=range(len(CLASS_ORDER)), xlabel="Share of the answered CTs (%), bars: 95 % interval")
    axes.set_yticklabels([str(name).capitalize() for name in CLASS_ORDER])
    axes.set_xlim(0, min(100.0, 22 + 100 * max(found["high"] for found in document["classes"].values())))
    axes.invert_yaxis()
    if document["classes"][str(CLASS_ORDER[0])]["share_in_training"] is not None:
        _legend(figure)
    return figure


def attenuation(hu: FloatArray, given: FloatArray, trained_on: Spread | None) -> Figure:
    """Histogram of the trabecular HU, stacked by given class, with the outline of training at the same number of CTs.

    hu, given: (n,), the mean HU and the class's place in CLASS_ORDER.
    """
    figure, axes = _figure(6.4, 3.4)
    known = np.isfinite(hu)
    hu, given = hu[known], given[known]
    ends = [hu.min(), hu.max()] if len(hu) else [0.0, 1.0]
    if trained_on is not None:
        ends = [min(ends[0], trained_on.quantiles[0]), max(ends[1], trained_on.quantiles[-1])]
    edges = np.linspace(ends[0], max(ends[1], ends[0] + 1.0), min(HU_BINS, 10 + len(hu) // 20) + 1)
    parts = [hu[given == c] for c in range(len(CLASS_ORDER))]
    labels = [f"{str(c).capitalize()} ({len(part)})" for c, part in zip(CLASS_ORDER, parts, strict=True)]
    axes.hist(parts, bins=list(edges), stacked=True, color=list(CLASS_COLOURS), label=labels)
    if trained_on is not None:
        expected = np.diff(trained_on.share_below(edges)) * len(hu)
        axes.stairs(expected, edges, color=TRAINING, linewidth=1.4, label=f"Training ({trained_on.cases}), scaled")
    axes.set(xlabel="HU of L1's trabecular core (mean), as scanned", ylabel="CTs")
    axes.yaxis.get_major_locator().set_params(integer=True)
    _legend(figure)
    return figure


def reasons(unanswered: list[dict[str, Any]]) -> Figure:
    """How often each reason for no answer is, the most frequent first."""
    ordered = sorted(unanswered, key=lambda entry: -entry["cases"])
    shown, rest = ordered[:MOST_BARS], ordered[MOST_BARS:]
    figure, axes = _figure(6.4, 1.1 + BAR_HEIGHT_IN * len(shown))
    for place, entry in enumerate(shown):
        status = Status(entry["status"])
        axes.barh(place, entry["cases"], color=STATUS_COLOURS[status], height=0.66)
        axes.annotate(str(entry["cases"]), (entry["cases"], place), xytext=(4, 0), textcoords="offset points",
                      va="center", fontsize=9)  # fmt: skip
    left_out = f" (not shown: the rarest {len(rest)}, {sum(entry['cases'] for entry in rest)} cases)" if rest else ""
    axes.set(yticks=range(len(shown)), xlabel=f"Cases{left_out}")
    axes.set_yticklabels([spoken(entry["code"]) for entry in shown])
    axes.set_xlim(0, 1.12 * max(entry["cases"] for entry in shown))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.invert_yaxis()
    for status, colour in STATUS_COLOURS.items():
        if any(entry["status"] == status for entry in shown):
            axes.bar(0, 0, color=colour, label=spoken(str(status)).capitalize())
    _legend(figure)
    return figure


def time(stages: Mapping[str, Mapping[str, float]]) -> Figure:
    """Median seconds a case in each stage, with the 95th percentile."""
    shown = {name: stage for name, stage in stages.items() if name != "total"} or dict(stages)
    figure, axes = _figure(6.4, 0.9 + BAR_HEIGHT_IN * len(shown))
    for place, stage in enumerate(shown.values()):
        axes.barh(place, stage["median_s"], color=CLASS_COLOURS[0], height=0.66)
        axes.plot([stage["median_s"], stage["p95_s"]], [place, place], color=INK, linewidth=1.2)
        axes.plot(stage["p95_s"], place, "|", color=INK)
    axes.set(yticks=range(len(shown)), xlabel="Seconds a case: median, line to the 95th percentile")
    axes.set_yticklabels([spoken(name) for name in shown])
    axes.invert_yaxis()
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingRequirement(
            "matplotlib_missing",
            "Plots need the package matplotlib.",
            how_to_install("batch"),
        ) from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes: Any = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(figure: Figure) -> None:
    """Above the axes, where no bar and no number can be."""
    figure.legend(loc="outside upper right", ncols=4, frameon=False, fontsize=8)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
