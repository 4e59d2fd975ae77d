"""The demonstration weights by one command: simulate, train, choose on validation, test once, write weights and card.

    python -m medconv.training.demonstration --out RUN

Killed at any point, the same command goes on where it was. Nothing is chosen after the test set has been read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medconv import weights
from medconv.config import CLASS_ORDER, ModelCard, Preprocessing
from medconv.population import Population
from medconv.simulate.cohort import CohortModel
from medconv.training import model_card
from medconv.training.cohorts.crops import CropRequest, CropSet, cached_crops, truth_sheets
from medconv.training.figures import evaluation
from medconv.training.figures.baseline import HuCases, can_be_fitted, hu_readers
from medconv.training.figures.choice import RunChoice, hash_of, hash_of_file
from medconv.training.figures.predictions import Predictions
from medconv.training.figures.sample import Sample, answers_of_run
from medconv.training.figures.test_readings import record_reading
from medconv.training.parts import assembly
from medconv.training.runs.export import folded, half_precision
from medconv.training.runs.readout import as_predictions, network_logits
from medconv.training.runs.run import TrainedRun, train_run
from medconv.training.runs.run_folder import BEST, SETTINGS
from medconv.training.runs.run_log import Printing
from medconv.training.runs.run_settings import TARGETS, RunSettings
from medconv.training.simulated_population import adjusted_answers, population_of
from medconv.types import UsageError

NAME = "medconv-sim-slim"
# 80 x 96 x 72 mm hold body, arch and processes; 2 mm is a third of the work of 1.5 mm and keeps the trabecular pattern
# that survives 3 mm slices. One tube voltage: otherwise a bone at 100 kVp is taken for a denser one.
PREPROCESSING = Preprocessing(size_xyz=(40, 48, 36), spacing_mm=2.0, reference_kvp=120.0)
# Trained on what the hidden signal says of the classes instead of the class that chance gave the patient: the same
# answer in the limit of many patients, reached with far fewer. Only a simulator knows it.
TRAINING = RunSettings(
    width=16, texture=True, targets="truth-posterior", epochs=8, learning_rate=2e-3, patience=0,
    preprocessing=PREPROCESSING,
)  # fmt: skip
INTENDED_USE = (
    "Demonstration and research only: shows how the software works. Trained on simulated CT; its answers on real "
    "patients have no known accuracy. Not a medical device."
)


@dataclass(frozen=True)
class DemonstrationSettings:
    """What the command asks for; with the code, all that decides the result."""

    cases: int = 11000
    validation_cases: int = 1500
    test_cases: int = 3000
    seed: int = 20261
    threads: int = 2
    resamples: int = 1000
    train: RunSettings = field(default_factory=lambda: TRAINING)
    preprocessing: Preprocessing = PREPROCESSING
    cohort: CohortModel = field(default_factory=CohortModel)

    def request(self, split: str) -> CropRequest:
        """The crops of one split."""
        return CropRequest(split, self.seed, self.preprocessing, self.cohort)


def run_demonstration(settings: DemonstrationSettings, run: Path, crops: Path, output: Path) -> ModelCard:
    """Everything from nothing. output: weights, manifest, MODEL_CARD.md.

    run: the run's own files, answers of the stored weights, test_readings.json, evaluation.json.
    """
    torch.set_num_threads(settings.threads)
    training = cached_crops(crops, settings.request("train"), settings.cases)
    validation = cached_crops(crops, settings.request("validation"), settings.validation_cases)
    wanted = replace(settings.train, preprocessing=settings.preprocessing)
    soft = settings.cohort.class_given_signal(training.signals) if wanted.targets == "truth-posterior" else None
    trained = train_run(wanted, training, validation, run, device="cpu", soft=soft, progress=Printing())
    choice = RunChoice.load(run)
    card = _card(settings, trained, choice)
    output.mkdir(parents=True, exist_ok=True)
    file = output / card.file
    # The stored half-precision weights are what is evaluated, not the ones they were rounded from.
    arrays = half_precision(folded(trained.state, trained.head, choice.logit_scale))
    network = weights.load_network(weights.save_weights(file, arrays, card), file)
    test = cached_crops(crops, settings.request("test"), settings.test_cases)
    which = hash_of([settings.request("test").settings(), str(len(test))])
    readings = record_reading(run, len(test), which, hash_of_file(run))
    found = {}
    for split, cases in {"validation": validation, "test": test}.items():
        unknown = np.full(len(cases), np.nan)
        logits = network_logits(network, cases)
        predictions = as_predictions(split, cases, logits, unknown, trained.class_prior, trained.head.tau1_train)
        predictions.save(run / f"answers_{split}.npz")
        found[split] = _evaluated(predictions, choice, training, settings)
    report: dict[str, Any] = {
        "settings": asdict(settings),
        "started_from": _first_stage(settings.train),
        "epoch_chosen": trained.epoch + 1,
        "test_readings": [asdict(reading) for reading in readings],
        "choice": asdict(choice),
        **found,
    }
    (run / "evaluation.json").write_text(json.dumps(evaluation.plain(report), indent=1, allow_nan=False), "utf-8")
    card = replace(card, validation=model_card.summary(report), population=_population(settings, crops, run, card))
    card = weights.save_weights(file, arrays, card)
    model_card.write_manifest(output / weights.MANIFEST, card)
    (output / "MODEL_CARD.md").write_text(model_card.as_markdown(card, report, file.stat().st_size), "utf-8")
    return card


def _first_stage(training: RunSettings) -> dict[str, Any] | None:
    """The training settings of the run whose weights this one started from."""
    if training.pretrained is None:
        return None
    settings: dict[str, Any] = json.loads((Path(training.pretrained).parent / SETTINGS).read_text("utf-8"))["settings"]
    return settings


def _evaluated(
    predictions: Predictions, choice: RunChoice, training: CropSet, settings: DemonstrationSettings
) -> dict[str, Any]:
    """The evaluation of one split; the stored weights hold the logit scale already."""
    sample = Sample(predictions, predictions.case_ids, "simulated T-score", "simulated L1 crops", model=settings.cohort)
    fitted_on = HuCases(training.median_hu, training.kvp, training.classes)
    readers = hu_readers(fitted_on, predictions.median_hu, predictions.kvp) if can_be_fitted(fitted_on) else None
    own = replace(choice, logit_scale=1.0)
    found = evaluation.evaluate(
        sample, answers_of_run(predictions, own), choice=own, readers=readers, resamples=settings.resamples
    )
    return found | {"choice": None}  # told once, for both splits


def _population(settings: DemonstrationSettings, crops: Path, run: Path, card: ModelCard) -> Population:
    """The training patients as numbers, with the answers to the validation patients."""
    sheets = truth_sheets(crops, "train", settings.cases)
    classes = {str(c): round(share * settings.cases) for c, share in card.class_prior.items()}
    found = population_of(sheets, classes, f"all {settings.cases} simulated training patients")
    answers = Predictions.load(run / "answers_validation.npz")
    return found.with_answers(adjusted_answers(card, answers.logits))


def _card(settings: DemonstrationSettings, trained: TrainedRun, choice: RunChoice) -> ModelCard:
    architecture = assembly.architecture(trained.settings, trained.head)
    if architecture is None:
        raise UsageError(
            "not_packable", "These settings give a network that Slicer can't run.", "Choose one of our own ResNets."
        )
    return ModelCard(
        name=NAME,
        file=f"{NAME}.npz",
        sha256="",
        architecture=architecture,
        preprocessing=settings.preprocessing,
        class_prior=dict(zip(CLASS_ORDER, trained.class_prior, strict=True)),
        minority_classes=choice.minority_classes,
        tau1_train=trained.head.tau1_train,
        default_adjustment=choice.adjustment,
        trained_on=f"{settings.cases} simulated CTs of L1 with simulated T-scores; no patient data",
        intended_use=INTENDED_USE,
        licence="Apache-2.0",
        conformal=choice.conformal,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m medconv.training.demonstration", description=__doc__)
    default = DemonstrationSettings()
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--crops", type=Path, help="folder of the cached crops (default: OUT/crops)")
    parser.add_argument(
        "--weights", type=Path, help="folder for weights, manifest and card (default: OUT/model_weights)"
    )
    parser.add_argument("--cases", type=int, default=default.cases)
    parser.add_argument("--validation-cases", type=int, default=default.validation_cases)
    parser.add_argument("--test-cases", type=int, default=default.test_cases)
    parser.add_argument("--epochs", type=int, default=default.train.epochs)
    parser.add_argument("--batch-size", type=int, default=default.train.batch_size)
    parser.add_argument("--width", type=int, default=default.train.width)
    parser.add_argument(
        "--texture", action=argparse.BooleanOptionalAction, default=default.train.texture,
        help="the stem also sees the local unevenness of bone",
    )  # fmt: skip
    parser.add_argument("--targets", choices=TARGETS, default=default.train.targets)
    parser.add_argument("--weight-decay", type=float, default=default.train.weight_decay)
    parser.add_argument("--learning-rate", type=float, default=default.train.learning_rate)
    parser.add_argument("--from", dest="start", type=Path, metavar="RUN", help="start from an earlier run's weights")
    parser.add_argument("--train-seed", type=int, default=default.train.seed, help="of the order of patients")
    parser.add_argument("--tau1", type=float, default=default.train.tau1, help="of the loss; 0 is plain cross-entropy")
    parser.add_argument("--threads", type=int, default=default.threads, help="of torch; 1 is fastest on a busy machine")
    parser.add_argument("--seed", type=int, default=default.seed)
    options = parser.parse_args(arguments)
    settings = DemonstrationSettings(
        cases=options.cases,
        validation_cases=options.validation_cases,
        test_cases=options.test_cases,
        seed=options.seed,
        threads=options.threads,
        train=replace(
            default.train,
            width=options.width,
            texture=options.texture,
            targets=options.targets,
            pretrained=str(options.start / BEST) if options.start else None,
            seed=options.train_seed,
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            tau1=options.tau1,
        ),
    )
    output = options.weights or options.out / "model_weights"
    card = run_demonstration(settings, options.out, options.crops or options.out / "crops", output)
    print(f"{card.name}: {output / card.file}, SHA-256 {card.sha256}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
