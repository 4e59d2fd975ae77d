"""The training population of simulated weights as numbers, for their card; the weight file stays as it is.

    python -m medconv.training.simulated_population --weights model_weights --crops FOLDER

Simulates the first patients of the training stream, measures them as the product does, and lets the weights answer
those of the validation stream, on whom they were not trained. The crops in FOLDER are made once.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medconv import tau_adjustment, weights
from medconv.config import CLASS_ORDER, ModelCard
from medconv.population import Population, describe, told
from medconv.simulate.cohort import CohortModel
from medconv.training import model_card
from medconv.training.cohorts.crops import CropRequest, CropSet, cached_crops, truth_sheets
from medconv.training.population_section import population_lines, write_population
from medconv.training.runs.readout import network_logits
from medconv.types import FloatArray, InputRefused

SEED = 20261  # of the shipped weights' training, see MODEL_CARD.md
PATIENTS = 1000


def add_population(folder: Path, name: str | None, crops: Path, patients: int, seed: int) -> ModelCard:
    """Write the population of a model into the folder's manifest.json, and into MODEL_CARD.md where it stands there.

    Raises InputRefused if the model is not there or was not trained on simulated CT.
    """
    cards = weights.read_manifest(folder / weights.MANIFEST)
    card = next((card for card in cards if name in (None, card.name)), None)
    if card is None or not card.simulated_only:
        raise InputRefused(
            "no_simulated_weights",
            f"{folder / weights.MANIFEST} has no weights {name or ''} that were trained on simulated CT.",
            "For other weights the population comes with 'medconv weights export'.",
        )
    sets = {
        split: cached_crops(crops, CropRequest(split, seed, card.preprocessing, CohortModel()), patients)
        for split in ("train", "validation")
    }
    sheets = truth_sheets(crops, "train", patients)
    found = population_of(sheets, _classes(card, sets["train"]), f"{patients} of the simulated training patients")
    network = weights.load_network(card, folder / card.file)
    found = found.with_answers(adjusted_answers(card, network_logits(network, sets["validation"])))
    card = replace(card, population=found)
    model_card.write_manifest(folder / weights.MANIFEST, card)
    write_population(folder / "MODEL_CARD.md", card)
    return card


def population_of(sheets: Sequence[Mapping[str, str]], classes: Mapping[str, int], measured: str) -> Population:
    """From the simulator's truth sheets with their measurements; older sheets lack some."""
    columns = {"hu_mean": "hu_mean", "hu_sd": "hu_sd", "l1_volume_ml": "mask_volume_ml"}
    cases = [
        {name: float(row.get(column, "nan")) for name, column in columns.items()}
        | told(
            float(row["scan_kvp"]),
            float(row["scan_slice_thickness_mm"]),
            None if row["scan_phase"] == "native" else row["scan_phase"],
        )
        for row in sheets
    ]
    return describe(classes, cases, measured)


def _classes(card: ModelCard, training: CropSet) -> dict[str, int]:
    """Training patients by class: their number stands in the card's text, their shares are its prior."""
    words = card.trained_on.split()
    patients = int(words[0]) if words[0].isdigit() else len(training)
    return {str(c): round(card.class_prior[c] * patients) for c in CLASS_ORDER}


def adjusted_answers(card: ModelCard, logits: FloatArray) -> FloatArray:
    """Probabilities (n, 3) by the weights' own adjustment."""
    return tau_adjustment.adjust_rows(
        logits,
        card.default_adjustment,
        class_prior=np.array([card.class_prior[c] for c in CLASS_ORDER]),
        is_minority=np.array([c in card.minority_classes for c in CLASS_ORDER]),
        tau1_train=card.tau1_train,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m medconv.training.simulated_population", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="folder with manifest.json and the weight file")
    parser.add_argument("--name", help="of the model (default: the first)")
    parser.add_argument("--crops", type=Path, required=True, help="folder of the cached crops")
    parser.add_argument("--patients", type=int, default=PATIENTS)
    parser.add_argument("--seed", type=int, default=SEED, help="of the training's simulated patients")
    options = parser.parse_args(arguments)
    card = add_population(options.weights, options.name, options.crops, options.patients, options.seed)
    assert card.population is not None
    print("\n".join(population_lines(card)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
