"""What a set of weights says about itself: the manifest entry and MODEL_CARD.md, written from the evaluation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medconv.config import CLASS_ORDER, ModelCard
from medconv.training.figures.intervals import told
from medconv.training.figures.metrics import LABELS
from medconv.training.figures.reader_comparison import DECISIVE
from medconv.training.figures.test_readings import times
from medconv.training.population_section import POPULATION, TRAINING, population_lines

NUMBERS = re.compile(r"\[[-+\d.eE,\s]+\]")


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that go into the manifest."""

    def short(split: Mapping[str, Any]) -> dict[str, Any]:
        figures = {name: _rounded(split["metrics"][name]) for name in (*DECISIVE, "quadratic_kappa")}
        calibrated = split["calibration"]["after_scaling"]
        return {"cases": split["cases"], **figures, **{name: round(calibrated[name], 4) for name in ("ece", "brier")}}

    test = report["test"]
    found = {
        "reference_standard": test["reference_standard"],
        "validation": short(report["validation"]),
        "test": short(test),
        "test_readings": len(report["test_readings"]),
        "conformal_coverage_on_test": _rounded(test["conformal"]["all_patients"]["overall"]),
    }
    if test["ideal"]:
        found["bayes_ceiling"] = {name: round(value, 4) for name, value in test["ideal"]["ceiling"].items()}
        found["share_of_ceiling"] = {name: _rounded(f) for name, f in test["ideal"]["share_of_ceiling"].items()}
    if test["hu"]:
        strongest = test["hu"]["readers"][test["hu"]["strongest"]]
        found["strongest_hu_reader_on_test"] = {"reader": strongest["label"]} | {
            name: _rounded(strongest["metrics"][name]) for name in DECISIVE
        }
        found["verdict"] = test["hu"]["verdict"]
    return found


def write_manifest(path: Path, card: ModelCard) -> None:
    """Put the card into the manifest, in place of an entry of the same name."""
    known = json.loads(path.read_text("utf-8"))["models"] if path.is_file() else []
    entries = [entry for entry in known if entry["name"] != card.name]
    text = json.dumps({"models": [card.to_json(), *entries]}, indent=1)
    # A hundred quantiles stand on one line.
    text = NUMBERS.sub(lambda found: "[" + " ".join(found.group()[1:-1].split()) + "]", text)
    path.write_text(text + "\n", "utf-8")


def as_markdown(card: ModelCard, report: Mapping[str, Any], size_bytes: int) -> str:
    """MODEL_CARD.md."""
    settings, choice, test = report["settings"], report["choice"], report["test"]
    size = "x".join(map(str, card.preprocessing.size_xyz))
    return "\n".join(
        [
            f"# {card.name}",
            "",
            "**Trained on simulated CT: demonstration only. Research use only. Not a medical device.**",
            "",
            f"Intended use: {card.intended_use}",
            "",
            "## What it is",
            f"A 3D {card.architecture.name} of width {card.architecture.width} (the original has 64)"
            f"{', with the local unevenness of bone as a second input' if card.architecture.texture else ''}, "
            f"{size_bytes / 1e6:.1f} MB in half precision, licence {card.licence}. "
            f"Input: L1 alone (everything else masked), {size} voxels of "
            f"{card.preprocessing.spacing_mm:g} mm, window {card.preprocessing.window_hu[0]:g} to "
            f"{card.preprocessing.window_hu[1]:g} HU{_voltage(card)}. Output: logits of normal, osteopenia, "
            "osteoporosis.",
            "",
            "## Data",
            f"{settings['cases']} simulated patients for training, {report['validation']['cases']} for validation, "
            f"{report['test']['cases']} for the test, all different, from the project's own simulator "
            "(docs/decisions/0003-simulation.md): T ~ N(−0.89, 1.36), image and T-score correlated at "
            f"r = {settings['cohort']['signal_correlation']:g}, tube voltages 80 to 140 kVp, slices 0.7 to 5 mm, three "
            "kernels, native and contrast phases, imperfect masks. The reference standard is the simulated T-score.",
            "",
            *([POPULATION, *population_lines(card), ""] if card.population else []),
            TRAINING,
            f"Bal-CE (logit-adjusted cross-entropy, tau1 = {card.tau1_train:g}), AdamW, learning rate "
            f"{settings['train']['learning_rate']:g}, weight decay {settings['train']['weight_decay']:g}, batch "
            f"{settings['train']['batch_size']}, {settings['train']['epochs']} epochs with cosine decay, mirroring and "
            f"shifts{_targets(report)}. Epoch {report['epoch_chosen']} had the best class-balanced likelihood on "
            f"validation. The logits were scaled by {choice['logit_scale']:.3f} (temperature scaling on validation). "
            f"{choice['reason']}",
            "",
            "## Figures",
            *([test["hu"]["verdict"], ""] if test["hu"] else []),
            f"Reference standard of every figure: {test['reference_standard']}. 95 % intervals: Wilson for shares of "
            "patients, stratified bootstrap over patients for the rest. Everything was chosen on validation; the test "
            f"set has been read {times(len(report['test_readings']))} by this run.",
            "",
            *_table(report),
            "",
            *_ceiling(test),
            *_against_hu(test),
            *_calibration(test),
            *_sets(test),
            *_confusion(test),
            "## Limits",
            "- The simulator is a sketch: no fractures, no osteoporosis treatment, no metal, one body type, idealised "
            "degeneration. What the network learned about real bone is unknown.",
            "- Contrast agent moves its answers, as it moves HU itself"
            + ("." if card.preprocessing.reference_kvp else ", and so does the tube voltage, which is not corrected."),
            "- WHO classes are meant for postmenopausal women and men over 50; age and sex are not simulated.",
            "- No real patient with a DXA was used, so no accuracy on patients can be claimed.",
            "",
            "## How to make it again",
            "```",
            *_commands(report, card),
            "```",
            f"File {card.file}, SHA-256 {card.sha256}",
            "",
        ]
    )


def _targets(report: Mapping[str, Any]) -> str:
    """What the network was trained to say, and from where it started, if that is unusual."""
    text = ""
    if report["settings"]["train"]["targets"] == "truth-posterior":
        text = (
            "; the target was the class probabilities that the simulator's hidden signal gives, not the class that "
            "chance gave the patient"
        )
    if first := report["started_from"]:
        text += f"; the start was a first run of {first['epochs']} epochs at learning rate {first['learning_rate']:g}"
    return text


def _commands(report: Mapping[str, Any], card: ModelCard) -> list[str]:
    """The command, or the two, that make these weights from nothing."""
    settings, first = report["settings"], report["started_from"]
    stages = [(settings["train"], "RUN" if first is None else "RUN2 --crops RUN/crops --from RUN")]
    if first is not None:
        stages.insert(0, (first, "RUN"))
    return [
        f"python -m medconv.training.demonstration --out {where} --cases {settings['cases']} "
        f"--validation-cases {settings['validation_cases']} --test-cases {settings['test_cases']} "
        f"--epochs {stage['epochs']} --batch-size {stage['batch_size']} --width {card.architecture.width} "
        f"--learning-rate {stage['learning_rate']:g} --weight-decay {stage['weight_decay']:g} "
        f"--tau1 {stage['tau1']:g} {'--texture ' if card.architecture.texture else ''}--targets {stage['targets']} "
        f"--seed {settings['seed']} --train-seed {stage['seed']}"
        for stage, where in stages
    ]


def _table(report: Mapping[str, Any]) -> list[str]:
    test = report["test"]
    columns = {
        f"Network, validation (n = {report['validation']['cases']})": report["validation"]["metrics"],
        f"Network, test (n = {test['cases']})": test["metrics"],
    }
    if test["hu"]:
        columns |= {f"{reader['label']}, test": reader["metrics"] for reader in test["hu"]["readers"].values()}
    if test["ideal"]:
        columns["Ideal reader, test"] = test["ideal"]["ideal_reader"]["metrics"]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, label in LABELS.items():
        lines.append(f"| {label} | " + " | ".join(told(figures[name]) for figures in columns.values()) + " |")
    return lines


def _ceiling(test: Mapping[str, Any]) -> list[str]:
    found = test["ideal"]
    if not found:
        return []
    ceiling, share, ideal = found["ceiling"], found["share_of_ceiling"], found["ideal_reader"]["metrics"]
    of_ideal = found["share_of_ideal_reader"]
    return [
        "The best that any reader could do on this cohort (Bayes ceiling): balanced accuracy "
        f"{ceiling['balanced_accuracy']:.3f}, osteoporosis AUC {ceiling['auc_osteoporosis']:.3f}. The network reaches "
        f"{_percent(share['balanced_accuracy'])} and {_percent(share['osteoporosis_auc'])} of it. On these very test "
        "patients an ideal reader, who knows each patient's hidden signal, scores "
        f"{ideal['balanced_accuracy']['value']:.3f} and {ideal['osteoporosis_auc']['value']:.3f}; the network reaches "
        f"{_percent(of_ideal['balanced_accuracy'])} and {_percent(of_ideal['osteoporosis_auc'])} of that.",
        "",
    ]


def _against_hu(test: Mapping[str, Any]) -> list[str]:
    found = test["hu"]
    if not found:
        return ["HU alone could not be compared: no measured L1 attenuation.", ""]
    lines = [
        f"Against HU alone (cumulative logit on L1's median HU, fitted on the training patients; {found['cases']} test "
        f"patients, {found['without_hu']} without a measurable HU left out). Network minus reader:",
        "",
    ]
    for name, reader in found["readers"].items():
        gains = ", ".join(
            f"{label} {told(reader['network_minus_reader'][metric], signed=True)}" for metric, label in DECISIVE.items()
        )
        mark = " (the strongest by its likelihood on the training patients)" if name == found["strongest"] else ""
        lines.append(
            f"- {reader['label']}{mark}: {gains}; p = {reader['mcnemar']['p_value']:.2g} (McNemar, accuracy), "
            f"{reader['delong_osteoporosis_auc']['p_value']:.2g} (DeLong, AUC)."
        )
    return [*lines, ""]


def _calibration(test: Mapping[str, Any]) -> list[str]:
    found = test["calibration"]
    after = found["after_scaling"]
    return [
        f"Calibration at the cohort's frequencies (log_prior, tau2 = 0): ECE {after['ece']:.3f} (a perfectly "
        f"calibrated reader stays below {found['ece_by_chance']:.3f} in 95 % of such test sets), class-wise ECE "
        f"{after['classwise_ece']:.3f}, Brier score {after['brier']:.3f} (0 to 2).",
        "",
    ]


def _sets(test: Mapping[str, Any]) -> list[str]:
    found = test["conformal"]
    cover = found["all_patients"]
    by_class = ", ".join(f"{c} {told(cover['by_class'][str(c)])}" for c in CLASS_ORDER)
    return [
        f"Conformal sets of neighbouring classes, promised to hold the truth in {1 - found['alpha']:.0%} (threshold "
        f"{found['threshold']:.3f} from validation): they held it in {told(cover['overall'])} of the test patients "
        f"({by_class}), with {cover['mean_size']:.2f} classes on average and a single class in "
        f"{told(cover['single_class'])}.",
        "",
    ]


def _confusion(test: Mapping[str, Any]) -> list[str]:
    head = "| Truth | " + " | ".join(str(c) for c in CLASS_ORDER) + " |"
    rows = [
        f"| {c} | " + " | ".join(f"{n} ({share:.0%})" for n, share in zip(counts, shares, strict=True)) + " |"
        for c, counts, shares in zip(
            CLASS_ORDER, test["confusion"]["counts"], test["confusion"]["row_shares"], strict=True
        )
    ]
    return ["Answers on the test set:", "", head, "|---" * (len(CLASS_ORDER) + 1) + "|", *rows, ""]


def _voltage(card: ModelCard) -> str:
    reference = card.preprocessing.reference_kvp
    return f", brought to {reference:g} kVp by how bone mineral attenuates" if reference else ""


def _percent(share: Mapping[str, float]) -> str:
    return f"{share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%})"


def _rounded(figure: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figure.items()}
