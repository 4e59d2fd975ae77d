"""The paper's figures beside ours as a picture: by row, over τ, or the classes of the cohort. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medconv import RESEARCH_USE_ONLY
from medconv.packages import how_to_install
from medconv.training.figures.intervals import wilson
from medconv.training.paper.paper_tables import FIGURE_LABELS, PAPER_TEST_PATIENTS
from medconv.types import MissingRequirement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 130
OURS, EXTRA_TEST, PAPER, GREY = "#0072B2", "#009E73", "#D55E00", "#6b7280"
CLASS_COLOURS = ("#0072B2", "#E69F00", "#C2410C")
FIVE = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7")


def plot(document: Mapping[str, Any]) -> bytes:
    """PNG of a document. Raises MissingRequirement without matplotlib."""
    if "classes" in document:
        figure = class_plot(document)
    elif document["rows"][0]["forms"]:
        figure = tau2_plot(document)
    elif document["table"] == "table5":
        figure = tau1_plot(document)
    else:
        figure = row_plot(document)
    figure.text(0.995, 0.003, RESEARCH_USE_ONLY, ha="right", va="bottom", fontsize=6.5, color=GREY)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def row_plot(document: Mapping[str, Any]) -> Figure:
    """One line a row: balanced accuracy (left) and AUC (right), the paper's and ours with intervals and every seed."""
    rows = document["rows"]
    figure, (left, right) = _figure(1, 2, 12.0, 1.9 + 0.34 * len(rows))
    for axes, name, title in ((left, "sensitivity", "Accuracy, classes weighing the same"), (right, "auc", "ROC AUC")):
        for place, row in enumerate(rows):
            _row(axes, row, name, len(rows) - 1 - place, first=place == 0, documents=document)
        _reference_lines(axes, document, name)
        axes.set(title=f"{title} (%)", yticks=range(len(rows)), ylim=(-0.7, len(rows) - 0.3))
        axes.grid(axis="x", alpha=0.25)
    left.set_yticklabels([r["label"] + (" †" if r["not_pretrained"] else "") for r in reversed(rows)], fontsize=8)
    right.set_yticklabels([])
    _legend(figure, left)
    if any(row["not_pretrained"] for row in rows):
        figure.text(0.005, 0.003, "† not pretrained here", ha="left", va="bottom", fontsize=7, color=GREY)
    return figure


def tau1_plot(document: Mapping[str, Any]) -> Figure:
    """Accuracy and AUC over τ1, one network for each: the paper's points, ours with intervals and every seed."""
    figure, panels = _figure(1, 2, 11.0, 5.0)
    rows = document["rows"]
    places = list(range(len(rows)))  # the taus crowd around 1: evenly spaced, named at the axis
    for axes, name, title in zip(panels, ("sensitivity", "auc"), ("Balanced accuracy", "ROC AUC"), strict=True):
        axes.plot(places, [row["paper"][name] for row in rows], "o--", color=PAPER, mfc="white", label="paper (78)")
        for split, colour, label in _ours(document):
            _band(axes, places, [row["ours"][split][name] for row in rows], colour, label)
        _reference_lines(axes, document, name)
        axes.set(xticks=places, xlabel="τ1 (one training each)", title=f"{title} (%)")
        axes.set_xticklabels([row["label"] for row in rows], fontsize=7, rotation=60)
        axes.grid(alpha=0.25)
    _legend(figure, panels[0])
    return figure


def tau2_plot(document: Mapping[str, Any]) -> Figure:
    """Fig. 6: the five figures over τ2, the paper's (left) and ours in each form."""
    from medconv.training.paper.reproduce_figures import FORMS

    rows = document["rows"]
    taus = [float(row["label"]) for row in rows]
    split = "extra" if "extra" in document["patients"] else "test"
    columns: dict[str, Any] = {f"Paper ({PAPER_TEST_PATIENTS} patients)": [row["paper"] for row in rows]}
    size = sum(document["patients"][split].values())
    for form, told in FORMS.items():
        found = [{n: f["value"] for n, f in row["forms"][form][split].items()} for row in rows]
        columns[f"Ours ({size}), " + told.split(":")[0]] = found
    figure, panels = _figure(1, len(columns), 3.6 * len(columns), 4.6, sharey=True)
    for axes, (title, found) in zip(panels, columns.items(), strict=True):
        for (name, label), colour in zip(FIGURE_LABELS.items(), FIVE, strict=True):
            # Accuracy and sensitivity are the same with as many of each class: dashed, so that both are seen.
            style = "--" if name == "sensitivity" else "-"
            axes.plot(taus, [f[name] for f in found], style, marker="o", ms=3, color=colour, label=label)
        axes.set_title(title, fontsize=9)
        axes.set(xlabel="τ2", xlim=(1.03, 0.07))
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("%")
    _legend(figure, panels[0])
    return figure


def class_plot(document: Mapping[str, Any]) -> Figure:
    """Fig. 4: cases of each class, the paper's cohort beside ours."""
    figure, panels = _figure(1, 2, 9.0, 4.4)
    names = {"paper": "AustinSpine (paper)", "ours": document["cohort"]["name"]}
    for axes, source in zip(panels, ("paper", "ours"), strict=True):
        splits = document["classes"][source]
        classes = list(next(iter(splits.values())))
        below = [0] * len(classes)
        for shade, (split, counts) in zip((1.0, 0.65, 0.35), splits.items(), strict=True):
            heights = [counts[c] for c in classes]
            bars = axes.bar(classes, heights, bottom=below, color=CLASS_COLOURS, alpha=shade, edgecolor="white")
            for bar, height, base in zip(bars, heights, below, strict=True):
                if height >= 0.06 * max(sum(s[c] for s in splits.values()) for c in classes):
                    middle = bar.get_x() + bar.get_width() / 2
                    ink = "white" if shade == 1.0 else "black"
                    text = f"{split} {height}"
                    axes.text(middle, base + height / 2, text, ha="center", va="center", fontsize=7.5, color=ink)
            below = [b + h for b, h in zip(below, heights, strict=True)]
        whole = max(sum(below), 1)
        for place, total in enumerate(below):
            axes.text(place, total, f"{total} ({total / whole:.0%})", ha="center", va="bottom", fontsize=9)
        axes.set(title=f"{names[source]}: {sum(below)} cases", ylim=(0, 1.15 * max(*below, 1)))
    _make_room(figure, 0.05)
    return figure


def _row(axes: Axes, row: Mapping[str, Any], name: str, y: float, first: bool, documents: Mapping[str, Any]) -> None:
    paper = row["paper"][name]
    limits = None
    if name != "auc":
        found = wilson(round(paper / 100.0 * PAPER_TEST_PATIENTS), PAPER_TEST_PATIENTS)
        limits = [[max(paper - 100 * found["low"], 0.0)], [max(100 * found["high"] - paper, 0.0)]]
    label = f"paper ({PAPER_TEST_PATIENTS} patients" + (", Wilson)" if limits else ")")
    axes.errorbar(
        [paper], [y + 0.22], xerr=limits, fmt="o", mfc="white", color=PAPER, ms=5, lw=1, label=label if first else None
    )
    for (split, colour, told), offset in zip(_ours(documents), (0.0, -0.22), strict=False):
        balanced = len(set(documents["patients"][split].values())) == 1
        f = row["ours"][split]["accuracy" if name == "sensitivity" and balanced else name]  # the same, with Wilson's
        around = [[max(f["value"] - f["low"], 0.0)], [max(f["high"] - f["value"], 0.0)]]
        axes.errorbar(
            [f["value"]], [y + offset], xerr=around, fmt="o", color=colour, ms=5, lw=1.2, label=told if first else None
        )
        if len(f["by_seed"]) > 1:
            axes.plot(f["by_seed"], [y + offset] * len(f["by_seed"]), "|", color=colour, ms=7, alpha=0.8)


def _ours(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    colours = {"test": OURS, "extra": EXTRA_TEST}
    sizes = {split: sum(counts.values()) for split, counts in document["patients"].items()}
    return [(split, colours[split], f"ours ({size} patients)") for split, size in sizes.items()]


def _band(axes: Axes, x: Sequence[float], figures: Sequence[Mapping[str, Any]], colour: str, label: str) -> None:
    axes.plot(x, [f["value"] for f in figures], "o-", color=colour, ms=4, label=label)
    axes.fill_between(x, [f["low"] for f in figures], [f["high"] for f in figures], color=colour, alpha=0.12, lw=0)
    for place, f in zip(x, figures, strict=True):
        if len(f["by_seed"]) > 1:
            axes.plot([place] * len(f["by_seed"]), f["by_seed"], "_", color=colour, ms=7, alpha=0.7)


def _reference_lines(axes: Axes, document: Mapping[str, Any], name: str) -> None:
    """HU alone and the ideal reader, on the largest test set."""
    split = list(document["patients"])[-1]
    sideways = document["table"] != "table5"
    for (key, found), style in zip(document["references"][split].items(), ((0, (4, 2)), (0, (1, 1))), strict=False):
        draw = axes.axvline if sideways else axes.axhline
        value = found["figures"][name]["value"]
        draw(value, color=GREY, lw=1.0, ls=style, label="HU alone" if key == "hu" else "ideal reader")


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncol=len(labels), fontsize=8, frameon=False)
    _make_room(figure, 0.35)


def _make_room(figure: Figure, above: float) -> None:
    """Keep the footer's line, and some inches above, free of axes."""
    below, above = 0.2 / figure.get_figheight(), above / figure.get_figheight()
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.0, below, 1.0, 1.0 - below - above))


def _figure(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    """Without pyplot, whose global state is not for a library."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingRequirement(
            "matplotlib_missing",
            f"The plot needs matplotlib, which can't be loaded ({error}).",
            how_to_install("train"),
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)
