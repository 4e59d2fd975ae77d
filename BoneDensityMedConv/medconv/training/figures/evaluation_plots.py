"""The pictures of an evaluation as PNG: every one with its counts and its uncertainty. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from medconv.config import CLASS_ORDER
from medconv.packages import how_to_install
from medconv.training.figures import intervals, metrics
from medconv.training.figures.baseline import HuReader
from medconv.training.figures.metrics import OSTEOPOROSIS
from medconv.training.figures.reader_comparison import DECISIVE
from medconv.training.figures.sample import Answers, Sample
from medconv.types import FloatArray, MissingRequirement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 130
# Told apart by people with red-green blindness as well (Okabe and Ito 2008).
CLASS_COLOURS = ("#0072B2", "#E69F00", "#C2410C")
NETWORK, HU, GREY = "#0072B2", "#B4530A", "#6b7280"
BAND_RESAMPLES = 300
GRID = np.linspace(0.0, 1.0, 101)
NAMES = tuple(str(c).capitalize() for c in CLASS_ORDER)


def all_plots(
    document: Mapping[str, Any], sample: Sample, answers: Answers, readers: Mapping[str, HuReader] | None
) -> dict[str, bytes]:
    """PNG by name, those that the document has figures for. Raises MissingRequirement without matplotlib."""
    hu = document["hu"]
    strongest = readers[hu["strongest"]] if readers is not None and hu is not None else None
    drawn: dict[str, Callable[[], Figure]] = {
        "roc": lambda: roc(document, sample, answers, strongest),
        "confusion": lambda: confusion(document, sample, strongest),
        "reliability": lambda: reliability(document),
        "decision_curve": lambda: decision(document),
    }
    if document["conformal"] is not None:
        drawn["conformal_sets"] = lambda: conformal_sets(document)
    if strongest is not None:
        drawn["score_against_hu"] = lambda: score_against_hu(document, sample, answers)
        drawn["difference_to_hu"] = lambda: difference_to_hu(document, sample, answers, readers or {})
    return {name: _png(draw()) for name, draw in drawn.items()}


def roc(document: Mapping[str, Any], sample: Sample, answers: Answers, hu: HuReader | None) -> Figure:
    """Left: osteoporosis against the rest, with the band of 95 % of resamples and the HU reader; right: all classes."""
    figure, (left, right) = _figure(1, 2, 10.0, 4.8)
    targets = sample.predictions.classes
    weights = intervals.bootstrap_weights(targets, sample.patients, BAND_RESAMPLES, seed=0)
    there, scores = targets == OSTEOPOROSIS, answers.shown[:, OSTEOPOROSIS]
    curves = np.array([roc_curve(there, scores, row) for row in weights])
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    left.fill_between(GRID, low, high, color=NETWORK, alpha=0.18, linewidth=0, label="95 % of resamples")
    auc = document["metrics"]["osteoporosis_auc"]
    once = np.ones(len(targets))
    left.plot(GRID, roc_curve(there, scores, once), color=NETWORK, label=f"Network, AUC {intervals.told(auc)}")
    if hu is not None:
        known = np.isfinite(sample.predictions.median_hu)
        of_hu = document["hu"]["readers"][hu.name]["metrics"]["osteoporosis_auc"]
        curve = roc_curve(there[known], hu.balanced[known, OSTEOPOROSIS], once[known])
        left.plot(GRID, curve, color=HU, linestyle="--", label=f"HU alone, AUC {intervals.told(of_hu)}")
    left.set_title(f"Osteoporosis ({there.sum()}) against the rest ({(~there).sum()})")
    for c, name in enumerate(NAMES):
        figures = document["by_class"][name.lower()]["auc"]
        curve = roc_curve(targets == c, answers.shown[:, c], once)
        right.plot(
            GRID, curve, color=CLASS_COLOURS[c], label=f"{name} ({np.sum(targets == c)}), {intervals.told(figures)}"
        )
    right.set_title("Each class against the rest, AUC")
    for axes in (left, right):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        axes.set(xlabel="1 − specificity", ylabel="Sensitivity", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.legend(loc="lower right", fontsize=8, frameon=False)
    return figure


def roc_curve(there: Any, scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Sensitivity at the false positive rates of GRID, ties as one step (a straight line). weights: (n,)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    with_it = np.cumsum((weights * there)[order])[ends]
    without = np.cumsum((weights * ~there)[order])[ends]
    rates = [np.concatenate([[0.0], counts / max(counts[-1], 1e-12)]) for counts in (without, with_it)]
    return np.interp(GRID, rates[0], rates[1])


def confusion(document: Mapping[str, Any], sample: Sample, hu: HuReader | None) -> Figure:
    """Counts and row shares, the network's beside those of the HU reader."""
    found = {"Network": np.array(document["confusion"]["counts"])}
    if hu is not None:
        known = np.isfinite(sample.predictions.median_hu)
        told = metrics.answers(hu.balanced[known])
        found["HU alone"] = metrics.confusion_matrix(sample.predictions.classes[known], told)
    figure, panels = _figure(1, len(found), 4.9 * len(found), 4.6)
    for axes, (title, counts) in zip(np.ravel(panels), found.items(), strict=True):
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, j), count in np.ndenumerate(counts):
            colour = "white" if shares[i, j] > 0.55 else "black"
            axes.text(j, i, f"{count}\n{shares[i, j]:.0%}", ha="center", va="center", color=colour, fontsize=11)
        axes.set(
            xticks=range(3), yticks=range(3), xticklabels=NAMES, xlabel="Answer", title=f"{title} (n = {counts.sum()})"
        )
        axes.set_yticklabels([f"{name}\n(n = {n})" for name, n in zip(NAMES, counts.sum(axis=1), strict=True)])
        axes.set_ylabel(f"Truth: {document['reference_standard']}")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def reliability(document: Mapping[str, Any]) -> Figure:
    """Observed share against probability for every class, with Wilson intervals, and how many cases are in each bin."""
    figure, panels = _figure(2, 3, 11.0, 4.9, height_ratios=[3, 1])
    for c, name in enumerate(NAMES):
        axes, counts = panels[0, c], panels[1, c]
        bins = document["calibration"]["reliability"][name.lower()]
        x = np.array([b["mean_probability"] for b in bins])
        y, low, high = (np.array([b["observed"][k] for b in bins]) for k in ("value", "low", "high"))
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        axes.errorbar(x, y, yerr=[y - low, high - y], fmt="o-", color=CLASS_COLOURS[c], capsize=2, markersize=4)
        axes.set(title=name, xlim=(0, 1), ylim=(0, 1), ylabel="Observed share" if c == 0 else None)
        counts.bar(x, [b["count"] for b in bins], width=0.06, color=CLASS_COLOURS[c], alpha=0.7)
        counts.set(xlim=(0, 1), xlabel="Probability", ylabel="Cases" if c == 0 else None)
    return figure


def decision(document: Mapping[str, Any]) -> Figure:
    """Net benefit of sending to DXA (or treating) by the network, by HU, everyone and no one."""
    figure, axes = _figure(1, 1, 7.2, 4.6)
    found, x = document["decision_curve"], np.array(document["decision_curve"]["thresholds"])
    styles = {
        "network": ("Network", NETWORK, "-"),
        "everyone": ("Everyone", GREY, "--"),
        "no_one": ("No one", GREY, "-"),
    }
    axes.fill_between(
        x, found["network_band"]["low"], found["network_band"]["high"], color=NETWORK, alpha=0.15, linewidth=0
    )
    for name, values in found["curves"].items():
        label, colour, style = styles.get(name, ("HU alone", HU, "--"))
        axes.plot(x, values, color=colour, linestyle=style, label=label, linewidth=1.0 if colour == GREY else 1.8)
    top = max(found["curves"]["everyone"][0], 0.02)
    axes.set(
        xlim=(0, x[-1]), ylim=(-0.3 * top, 1.12 * top), xlabel="Threshold probability of osteoporosis",
        ylabel="Net benefit (osteoporosis found per patient)",
    )  # fmt: skip
    axes.legend(frameon=False)
    return figure


def conformal_sets(document: Mapping[str, Any]) -> Figure:
    """Left: how large the sets are; right: how often they hold the truth, overall and by class."""
    found = document["conformal"]
    kinds = {"One threshold": found["all_patients"]}
    if "by_class" in found:
        kinds["A threshold for each class"] = found["by_class"]
    figure, (left, right) = _figure(1, 2, 10.0, 4.2)
    width = 0.8 / len(kinds)
    for k, (label, cover) in enumerate(kinds.items()):
        shift = (k - (len(kinds) - 1) / 2) * width
        colour = (NETWORK, "#56B4E9")[k]
        sizes = np.array([cover["sizes"][n] for n in ("1", "2", "3")])
        bars = left.bar(np.arange(1, 4) + shift, sizes / sizes.sum(), width * 0.94, color=colour, label=label)
        left.bar_label(bars, [str(n) for n in sizes], fontsize=8)
        shares = [cover["overall"], *(cover["by_class"][name.lower()] for name in NAMES)]
        y, low, high = (np.array([share[key] for share in shares], float) for key in ("value", "low", "high"))
        right.errorbar(np.arange(4) + shift, y, yerr=[y - low, high - y], fmt="o", color=colour, capsize=3, label=label)
    left.set(xticks=(1, 2, 3), xlabel="Classes in the set", ylabel="Share of cases (counts above)")
    left.margins(y=0.12)
    right.axhline(1 - found["alpha"], color=GREY, linestyle="--", linewidth=1)
    right.set(xticks=range(4), xticklabels=("All", *NAMES), ylabel="Sets that hold the true class")
    right.set_ylim(None, 1.005)
    right.margins(x=0.08)
    left.legend(frameon=False, fontsize=8, loc="upper right")
    return figure


def score_against_hu(document: Mapping[str, Any], sample: Sample, answers: Answers) -> Figure:
    """P(osteoporosis) against L1's HU, by true class: where the network sees more than HU does."""
    figure, axes = _figure(1, 1, 7.2, 4.8)
    p = sample.predictions
    size = 18 if len(p) < 500 else 7
    for c, name in enumerate(NAMES):
        inside = p.classes == c
        axes.scatter(
            p.median_hu[inside], answers.natural[inside, OSTEOPOROSIS], s=size, color=CLASS_COLOURS[c], alpha=0.55,
            linewidths=0, label=f"{name} ({inside.sum()})", zorder=2 + c,
        )  # fmt: skip
    missing = document["hu"]["without_hu"]
    axes.set(
        xlabel="L1 trabecular attenuation as scanned, median HU" + (f" ({missing} not measurable)" if missing else ""),
        ylabel="Network: probability of osteoporosis", ylim=(-0.02, 1.02),
    )  # fmt: skip
    axes.legend(frameon=False, title=f"Truth: {document['reference_standard']}", markerscale=1.6)
    return figure


def difference_to_hu(
    document: Mapping[str, Any], sample: Sample, answers: Answers, readers: Mapping[str, HuReader]
) -> Figure:
    """How the network's lead over each HU reader spreads over resamples of the patients."""
    p = sample.predictions
    known = np.isfinite(p.median_hu)
    patients = [patient for patient, here in zip(sample.patients, known, strict=True) if here]
    weights = intervals.bootstrap_weights(p.classes[known], patients, 1000, seed=0)
    own = intervals.spreads(p.classes[known], answers.shown[known], weights, tuple(DECISIVE))
    figure, panels = _figure(1, len(DECISIVE), 11.0, 3.4)
    for axes, (metric, label) in zip(panels, DECISIVE.items(), strict=True):
        for row, reader in enumerate(readers.values()):
            of_reader = intervals.spreads(p.classes[known], reader.balanced[known], weights, tuple(DECISIVE))
            spread = own[metric].minus(of_reader[metric]).resamples
            found = document["hu"]["readers"][reader.name]["network_minus_reader"][metric]
            body = axes.violinplot(spread, [row], orientation="horizontal", widths=0.8, showextrema=False)
            for part in body["bodies"]:
                part.set(facecolor=NETWORK, alpha=0.25)
            axes.plot([found["low"], found["high"]], [row, row], color=NETWORK, linewidth=2)
            axes.plot(found["value"], row, "o", color=NETWORK)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(title=f"{label[0].upper()}{label[1:]}: network minus HU", yticks=range(len(readers)))
        axes.set_yticklabels([_short(reader.label) for reader in readers.values()] if axes is panels[0] else [])
        axes.invert_yaxis()
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return figure


def _short(label: str) -> str:
    return (
        label.replace("L1's HU ", "HU ").replace(" brought to 120 kVp by ", " at 120 kVp,\n").replace("mineral's ", "")
    )


def _figure(rows: int, columns: int, width: float, height: float, **grid: Any) -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingRequirement(
            "matplotlib_missing",
            "Plots need the package matplotlib.",
            how_to_install("train"),
        ) from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    panels: Any = figure.subplots(rows, columns, gridspec_kw=grid or None)
    for axes in np.ravel(panels):
        _plain(axes)
    return figure, panels


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(10)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
