"""What a set of weights says about itself: the manifest entry and MODEL_CARD.md, written from the evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medconv.config import ModelCard

ROWS = {
    "balanced_accuracy": "Balanced accuracy (macro sensitivity)",
    "macro_specificity": "Specificity (macro)",
    "weighted_f1": "F1 (weighted)",
    "macro_auc": "AUC (macro, one-versus-rest)",
    "osteoporosis_auc": "AUC osteoporosis against the rest",
    "accuracy": "Accuracy at the cohort's own frequencies",
    "two_classes_off": "Two classes off",
}


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that go into the manifest."""

    def short(split: Mapping[str, Any]) -> dict[str, Any]:
        figures = {name: _rounded(split["metrics"][name]) for name in ("balanced_accuracy", "osteoporosis_auc")}
        return {"cases": split["cases"], **figures, "ece": round(split["ece_at_cohort_prior"], 4)}

    readers = report["readers_on_test"]
    return {
        "reference_standard": "simulated T-score",
        "validation": short(report["validation"]),
        "test": short(report["test"]),
        "bayes_ceiling": {name: round(value, 4) for name, value in report["ceiling"].items()},
        "hu_only_on_test": {
            name: _rounded(readers["hu_only"]["metrics"][name]) for name in ("balanced_accuracy", "osteoporosis_auc")
        },
    }


def write_manifest(path: Path, card: ModelCard) -> None:
    """Put the card into the manifest, in place of an entry of the same name."""
    known = json.loads(path.read_text("utf-8"))["models"] if path.is_file() else []
    entries = [entry for entry in known if entry["name"] != card.name]
    path.write_text(json.dumps({"models": [card.to_json(), *entries]}, indent=1) + "\n", "utf-8")


def as_markdown(card: ModelCard, report: Mapping[str, Any], size_bytes: int) -> str:
    """MODEL_CARD.md."""
    settings, readers, ceiling = report["settings"], report["readers_on_test"], report["ceiling"]
    network = report["test"]["metrics"]
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
            f"A 3D ResNet-50 of width {card.architecture.width} (the original has 64), {size_bytes / 1e6:.1f} MB in "
            f"half precision, licence {card.licence}. Input: L1 alone (everything else masked), {size} voxels of "
            f"{card.preprocessing.spacing_mm:g} mm, window {card.preprocessing.window_hu[0]:g} to "
            f"{card.preprocessing.window_hu[1]:g} HU. Output: logits of normal, osteopenia, osteoporosis.",
            "",
            "## Data",
            f"{settings['cases']} simulated patients for training, {report['validation']['cases']} for validation, "
            f"{report['test']['cases']} for the test, all different, from the project's own simulator "
            "(docs/decisions/0003-simulation.md): T ~ N(−0.89, 1.36), image and T-score correlated at "
            f"r = {settings['cohort']['signal_correlation']:g}, tube voltages 80 to 140 kVp, slices 0.7 to 5 mm, three "
            "kernels, native and contrast phases, imperfect masks. The reference standard is the simulated T-score.",
            "",
            "## Training",
            f"Bal-CE (logit-adjusted cross-entropy, tau1 = {card.tau1_train:g}), AdamW, learning rate "
            f"{settings['train']['learning_rate']:g}, weight decay {settings['train']['weight_decay']:g}, batch "
            f"{settings['train']['batch_size']}, {settings['train']['epochs']} epochs with cosine decay, mirroring and "
            f"shifts. Epoch {report['epoch_chosen']} had the best class-balanced likelihood on validation. The logits "
            f"were scaled by {report['logit_scale']:.3f} (temperature scaling on validation). "
            f"{report['choice']['reason']}",
            "",
            "## Figures",
            "95 % intervals by bootstrap over patients (stratified). The test set was read once, after all choices.",
            "",
            *_table(report),
            "",
            "Calibration at the cohort's frequencies (log_prior, tau2 = 0): ECE "
            f"{report['test']['ece_at_cohort_prior']:.3f} on the test set. Confusion on the test set, rows truth, "
            "columns answer (normal, osteopenia, osteoporosis): "
            f"{report['test']['confusion']}.",
            "",
            _ceiling_sentence(network, ceiling, readers["ideal_reader"]["metrics"]),
            "",
            f"Against HU alone (cumulative logit on L1's median HU, same patients): "
            f"{_verdict(readers['hu_only']['network_minus_reader'])}",
            "",
            "Against HU alone brought to 120 kVp by the published factors: "
            f"{_verdict(readers['hu_only_kvp_corrected']['network_minus_reader'])}",
            "",
            "## Limits",
            "- The simulator is a sketch: no fractures, no osteoporosis treatment, no metal, one body type, idealised "
            "degeneration. What the network learned about real bone is unknown.",
            "- It depends on the tube voltage (not corrected) and on contrast agent, as HU itself does.",
            "- WHO classes are meant for postmenopausal women and men over 50; age and sex are not simulated.",
            "- No real patient with a DXA was used, so no accuracy on patients can be claimed.",
            "",
            "## How to make it again",
            "```",
            f"python -m medconv.training.demonstration --out RUN --cases {settings['cases']} "
            f"--validation-cases {settings['validation_cases']} --test-cases {settings['test_cases']} "
            f"--epochs {settings['train']['epochs']} --batch-size {settings['train']['batch_size']} "
            f"--width {card.architecture.width} --weight-decay {settings['train']['weight_decay']:g} "
            f"--seed {settings['seed']}",
            "```",
            f"File {card.file}, SHA-256 {card.sha256}",
            "",
        ]
    )


def _table(report: Mapping[str, Any]) -> list[str]:
    readers = report["readers_on_test"]
    columns = {
        f"Network, validation (n = {report['validation']['cases']})": report["validation"]["metrics"],
        f"Network, test (n = {report['test']['cases']})": report["test"]["metrics"],
        "HU only, test": readers["hu_only"]["metrics"],
        "HU only, kVp-corrected, test": readers["hu_only_kvp_corrected"]["metrics"],
        "Ideal reader, test": readers["ideal_reader"]["metrics"],
    }
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, label in ROWS.items():
        lines.append(f"| {label} | " + " | ".join(_interval(figures[name]) for figures in columns.values()) + " |")
    return lines


def _ceiling_sentence(network: Mapping[str, Any], ceiling: Mapping[str, float], ideal: Mapping[str, Any]) -> str:
    accuracy, auc = network["balanced_accuracy"]["value"], network["osteoporosis_auc"]["value"]
    best_accuracy, best_auc = ceiling["balanced_accuracy"], ceiling["auc_osteoporosis"]
    return (
        f"The best that any reader could do on this cohort (Bayes ceiling): balanced accuracy {best_accuracy:.3f}, "
        f"osteoporosis AUC {best_auc:.3f}. The network reaches {accuracy / best_accuracy:.1%} and {auc / best_auc:.1%} "
        f"of it. On these very test patients an ideal reader, who knows each patient's hidden signal, scores "
        f"{ideal['balanced_accuracy']['value']:.3f} and {ideal['osteoporosis_auc']['value']:.3f}."
    )


def _verdict(gain: Mapping[str, Mapping[str, float]]) -> str:
    parts = [
        f"{label} {_interval(gain[name], signed=True)}"
        for name, label in (("balanced_accuracy", "balanced accuracy"), ("osteoporosis_auc", "osteoporosis AUC"))
    ]
    if all(gain[name]["low"] > 0 for name in gain):
        verdict = "the network is better"
    elif all(gain[name]["low"] <= 0 for name in gain):
        verdict = "the network does not beat HU alone"
    else:
        verdict = "the network is better in one figure, not clearly in the other"
    return f"{', '.join(parts)}: {verdict}."


def _interval(figure: Mapping[str, float], signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{figure['value']:{sign}.3f} ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})"


def _rounded(figure: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figure.items()}
