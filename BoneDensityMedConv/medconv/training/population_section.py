"""MODEL_CARD.md's section on the training population."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medconv.config import ModelCard

POPULATION, TRAINING = "## Training population", "## Training"
QUANTITIES = {
    "hu_mean": ("HU of L1's trabecular core, mean", ".0f"),
    "hu_sd": ("HU of L1's trabecular core, SD", ".0f"),
    "l1_volume_ml": ("Volume of L1's mask, ml", ".1f"),
    "p_osteoporosis": ("Probability of osteoporosis given to patients not trained on", ".2f"),
}


def write_population(path: Path, card: ModelCard) -> None:
    """Put the section on the training population into a MODEL_CARD.md, in place of an older one."""
    before, _, after = path.read_text("utf-8").partition(f"{TRAINING}\n")
    before = before.partition(f"{POPULATION}\n")[0]
    section = "\n".join([POPULATION, *population_lines(card), "", TRAINING])
    path.write_text(f"{before}{section}\n{after}", "utf-8")


def population_lines(card: ModelCard) -> list[str]:
    """The training population in words and figures; nothing for weights that do not tell."""
    found = card.population
    if found is None:
        return []
    rows = [
        f"| {label} | " + " | ".join(f"{value:{form}}" for value in found.quantities[name].at((0.05, 0.5, 0.95))) + " |"
        for name, (label, form) in QUANTITIES.items()
        if name in found.quantities
    ]
    made = {name: _shares(counts) for name, counts in found.acquisition.items()}
    return [
        f"Measured on {found.measured}, so that a batch can be compared with them (`medconv batch`):",
        "",
        "| | 5th percentile | Median | 95th percentile |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Tube voltage (kVp): {made['kvp']}. Slice thickness (mm): {made['slice_thickness_mm']}. Contrast agent: "
        f"{made['contrast_agent']}. Given classes: {_shares(found.predicted)}.",
    ]


def _shares(counts: Mapping[str, int]) -> str:
    total = max(sum(counts.values()), 1)
    return ", ".join(f"{name} {count / total:.0%}" for name, count in counts.items())
