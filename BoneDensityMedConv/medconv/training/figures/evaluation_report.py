"""report.html of an evaluation: one self-contained page that begins with whether the network beats HU alone."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from medconv.config import CLASS_ORDER
from medconv.html_page import banner, facts_table, page
from medconv.training.figures.intervals import told
from medconv.training.figures.metrics import LABELS
from medconv.training.figures.reader_comparison import DECISIVE
from medconv.training.figures.test_readings import times

NO_HU = "HU could not be compared: no case has a measured L1 attenuation, so nothing says whether the network beats it."
RATES = ("sensitivity", "specificity", "positive_predictive_value")
SIZES = {"1": "one class", "2": "two classes", "3": "all three"}
RULES = {
    "rule_out": "Rule out: below it no DXA (set where 90 % of the validation patients with osteoporosis were kept)",
    "rule_in": "Rule in: from it on (set where 90 % of the validation patients without osteoporosis were left out)",
}
TESTS = ("mcnemar", "delong_osteoporosis_auc")
PLOT_TEXT = {
    "roc": "ROC with the band of 95 % of resamples, and every class against the rest",
    "confusion": "Counts, and shares of each row (truth)",
    "reliability": "Observed share against probability with Wilson intervals; below, how many cases are in each bin",
    "conformal_sets": "Sizes of the sets, and how often they hold the true class (dashed: promised)",
    "decision_curve": "Net benefit of sending to DXA by the network, by HU alone, everyone and no one",
    "score_against_hu": "The network's probability of osteoporosis against L1's HU",
    "difference_to_hu": "Lead of the network over each HU reader, over resamples of the patients",
}


def evaluation_page(document: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    """The page of an evaluation.json document; PNG by name, of `evaluation_plots`."""
    parts = [
        banner(document["hu"]["verdict"] if document["hu"] else NO_HU),
        *(banner(sentence) for sentence in document["warnings"]),
        _figures(document, plots),
        _against_hu(document, plots),
        _ceiling(document),
        _calibration(document, plots),
        _conformal(document, plots),
        _decision(document, plots),
        _groups(document),
        _making(document),
    ]
    return page(f"MedConv: evaluation, {document['split']} split", "".join(parts), document["versions"])


def _figures(document: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    counts = ", ".join(f"{n} {c}" for c, n in document["cases_by_class"].items())
    rows = [(LABELS[name], told(figure)) for name, figure in document["metrics"].items()]
    by_class = [
        (c.capitalize(), *(told(figures[key]) for key in RATES), told(figures["auc"]))
        for c, figures in document["by_class"].items()
    ]
    head = ("Class against the rest", "Sensitivity", "Specificity", "Positive predictive value", "AUC")
    return _card(
        f"The network on the {document['split']} split",
        f"<p>{document['cases']} cases of {document['patients']} patients ({escape(counts)}). "
        f"{_reference(document)}</p>"
        + _table(("Figure", "Value (95 % interval)"), rows)
        + _table(head, by_class)
        + _thresholds(document)
        + _picture(plots, "roc")
        + _picture(plots, "confusion")
        + '<p class="soft">Shares of patients: Wilson intervals where every patient has one CT. All else: bootstrap '
        "over patients within their class. The paper's five figures are accuracy, macro sensitivity and specificity, "
        "weighted F1 and macro AUC.</p>",
    )


def _thresholds(document: Mapping[str, Any]) -> str:
    found = document["osteoporosis_thresholds"]
    if not found:
        return ""
    keys = (*RATES, "negative_predictive_value")
    rows = [
        (RULES[name], f"{figures['threshold']:.3f}", *(told(figures[key]) for key in keys))
        for name, figures in found.items()
    ]
    head = ("Threshold of P(osteoporosis)", "Value", "Sensitivity", "Specificity", "PPV", "NPV")
    return f"<h2>Osteoporosis, at thresholds from validation</h2>{_table(head, rows)}"


def _against_hu(document: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    found = document["hu"]
    if not found:
        return _card("Against HU alone", f"<p>{NO_HU}</p>")
    rows = []
    for name, reader in found["readers"].items():
        label = reader["label"] + (" (strongest)" if name == found["strongest"] else "")
        gains = [told(reader["network_minus_reader"][metric], signed=True) for metric in DECISIVE]
        tests = [f"{reader[test]['p_value']:.3g}" if test in reader else "–" for test in TESTS]
        rows.append((label, *(told(reader["metrics"][metric]) for metric in DECISIVE), *gains, *tests))
    own = ("Network", *(told(found["network"][metric]) for metric in DECISIVE), "", "", "", "")
    head = (
        "Reader", "Balanced accuracy", "Osteoporosis AUC", "Network minus reader: balanced accuracy", "… AUC",
        "p, McNemar (accuracy)", "p, DeLong (AUC)",
    )  # fmt: skip
    missing = f" {found['without_hu']} cases without a measurable HU are left out." if found["without_hu"] else ""
    return _card(
        "Against HU alone",
        f"<p>{escape(found['verdict'])}</p>{_table(head, [own, *rows])}"
        f'<p class="soft">{escape(document["hu_fit"])} A cumulative logit (proportional odds) of L1\'s median HU, with '
        "the classes taken as equally frequent. The strongest is the one with the best likelihood on the patients "
        f"it was fitted on, not on these. Same {found['cases']} cases for all.{missing} {_reference(document)}</p>"
        + _picture(plots, "difference_to_hu")
        + _picture(plots, "score_against_hu"),
    )


def _ceiling(document: Mapping[str, Any]) -> str:
    found = document["ideal"]
    if not found:
        return ""
    limits = {"balanced_accuracy": "balanced_accuracy", "osteoporosis_auc": "auc_osteoporosis"}
    rows = [
        (
            LABELS[name],
            told(document["metrics"][name]),
            f"{found['ceiling'][limits[name]]:.3f}",
            told(found["share_of_ceiling"][name]),
            told(found["ideal_reader"]["metrics"][name]),
            told(found["share_of_ideal_reader"][name]),
        )
        for name in DECISIVE
    ]
    head = ("Figure", "Network", "Bayes ceiling", "Share of it", "Ideal reader, these patients", "Share of it")
    return _card(
        "What could be reached",
        f"<p>This cohort is simulated: image and T-score are correlated at r = {found['signal_correlation']:g}, so no "
        "reader of the image can do better than the ceiling on average. The ideal reader knows each patient's hidden "
        f"signal; by luck of the draw he may lie above the ceiling.</p>{_table(head, rows)}",
    )


def _calibration(document: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    found = document["calibration"]
    names = {"ece": "ECE", "classwise_ece": "Class-wise ECE", "brier": "Brier score (0 to 2)", "nll": "Log loss"}
    kinds = [found[kind] for kind in ("before_scaling", "after_scaling", "as_shown")]
    rows = [(label, *(f"{figures[key]:.4f}" if figures else "–" for figures in kinds)) for key, label in names.items()]
    mix = (
        "The classes are mixed otherwise here than among the training patients; the probabilities were moved to this "
        "mix by Bayes' rule before they were judged."
        if document["class_mix_differs_from_training"]
        else "Judged at the training patients' class frequencies."
    )
    scale = document["choice"]["logit_scale"] if document["choice"] else None
    scaled = f" Logits times {scale:.3f}, fitted on validation." if scale is not None else ""
    return _card(
        "Do the probabilities mean what they say?",
        f"<p>{mix}{scaled} A perfectly calibrated reader would show an ECE of up to {found['ece_by_chance']:.3f} (95 "
        "%) with this many cases, by chance alone.</p>"
        + _table(("", "Before scaling", "After scaling", "With the adjustment shown"), rows)
        + _picture(plots, "reliability"),
    )


def _conformal(document: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    found = document["conformal"]
    if not found:
        return ""
    kinds = {"One threshold for all": found["all_patients"]}
    if "by_class" in found:
        kinds["A threshold for each class"] = found["by_class"]
    rows = []
    for label, cover in kinds.items():
        sizes = ", ".join(f"{SIZES[k]} {n}" for k, n in cover["sizes"].items())
        by_class = [told(cover["by_class"][str(c)]) for c in CLASS_ORDER]
        size = f"{cover['mean_size']:.2f} ({sizes})"
        rows.append((label, told(cover["overall"]), *by_class, size, told(cover["single_class"])))
    head = ("", "Holds the truth", *(str(c).capitalize() for c in CLASS_ORDER), "Mean size", "Single class")
    return _card(
        "Sets of classes that remain possible",
        f"<p>Ordinal conformal sets: promised to hold the true class in {1 - found['alpha']:.0%} of patients like "
        "those of validation. More than one class reads as “indeterminate, consider DXA”. The validation patients also "
        "chose the epoch and the scale, so the promise is approximate; what counts is the coverage measured here. "
        f"{_reference(document)}</p>{_table(head, rows)}" + _picture(plots, "conformal_sets"),
    )


def _decision(document: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    rows = []
    for row in document["decision_curve"]["table"]:
        lead = row.get("network_minus_hu_per_1000")
        rows.append(
            (
                f"{row['threshold']:.0%}",
                f"{row['sent']:.0%}",
                told(row["net_benefit_per_1000"], decimals=1),
                f"{row['everyone_per_1000']:.1f}",
                told(lead, signed=True, decimals=1) if lead else "–",
                told(row["examinations_spared_per_1000"], decimals=0),
            )
        )
    head = (
        "Threshold", "Sent to DXA", "Net benefit per 1000", "Everyone sent", "Network minus HU",
        "DXA spared per 1000 (net)",
    )  # fmt: skip
    return _card(
        "Is acting on the answer worth it?",
        "<p>At a threshold of 10 %, nine needless DXA weigh as much as one missed osteoporosis. Net benefit: "
        "osteoporosis found, less the needless examinations at that rate (Vickers and Elkin 2006), at the class mix of "
        f"these cases.</p>{_table(head, rows)}" + _picture(plots, "decision_curve"),
    )


def _groups(document: Mapping[str, Any]) -> str:
    rows = []
    for row in document["groups"]:
        figures, gain = row["metrics"], row["network_minus_hu"]
        told_figures = [told(figures[name]) if figures else "too few" for name in DECISIVE]
        gains = [told(gain[name], signed=True) if gain else "–" for name in DECISIVE]
        rows.append((f"{row['group']}: {row['value']}", str(row["cases"]), *told_figures, *gains))
    if not rows:
        return ""
    head = ("Group", "Cases", "Balanced accuracy", "Osteoporosis AUC", "Network minus HU: balanced accuracy", "… AUC")
    return _card(
        "Sub-groups",
        _table(head, rows)
        + '<p class="soft">Not corrected for looking at many groups: one in twenty intervals misses the truth.</p>',
    )


def _making(document: Mapping[str, Any]) -> str:
    rows = {
        "Source": document["source"],
        "Cohort": document["cohort"],
        "Reference standard": document["reference_standard"],
    }
    choice = document["choice"]
    if choice:
        chosen_by = sum(choice["cases_by_class"].values())
        rows["Chosen on validation"] = f"{chosen_by} cases. {choice['reason']} Logit scale {choice['logit_scale']:.3f}."
    if document["test_readings"]:
        rows["Readings of the test set"] = f"{times(len(document['test_readings'])).capitalize()} with this run"
    return _card("How it was made", facts_table(rows))


def _reference(document: Mapping[str, Any]) -> str:
    return f"Reference standard: {escape(document['reference_standard'])}."


def _card(title: str, body: str) -> str:
    return f'<section class="card"><h2>{escape(title)}</h2>{body}</section>'


def _picture(plots: Mapping[str, bytes], name: str) -> str:
    if name not in plots:
        return ""
    data, text = base64.b64encode(plots[name]).decode("ascii"), escape(PLOT_TEXT[name])
    return (
        f'<figure><img alt="{text}" style="max-width:100%;background:#fff;border-radius:4px" '
        f'src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{_unbroken(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="figures" style="margin:0 0 14px"><tr>{first}</tr>{lines}</table>'


def _unbroken(cell: str) -> str:
    """A line may end before an interval, not within it."""
    return re.sub(r"(\([^()]* to [^()]*\))", r'<span style="white-space:nowrap">\1</span>', escape(cell))
