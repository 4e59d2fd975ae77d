"""The demonstration weights by one command: simulate, train, choose on validation, test once, write weights and card.

    python -m medconv.training.demonstration --out RUN --cases 8000 --epochs 12 --width 16

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
from numpy.typing import NDArray
from torch import Tensor

from medconv import weights
from medconv.config import CLASS_ORDER, Architecture, ModelCard, Preprocessing
from medconv.simulate.cohort import CohortModel
from medconv.training import evaluation, model_card
from medconv.training.calibration import fit_logit_scale
from medconv.training.choice import AdjustmentChoice, LogitReading, choose_adjustment
from medconv.training.crops import CropRequest, CropSet, cached_crops
from medconv.training.loop import TrainedNetwork, TrainSettings, network_logits, train
from medconv.types import Adjustment, TScoreClass

NAME = "medconv-sim-slim"
# 80 x 96 x 72 mm hold body, arch and processes; 2 mm is a third of the work of 1.5 mm and keeps the trabecular pattern
# that survives 3 mm slices.
PREPROCESSING = Preprocessing(size_xyz=(40, 48, 36), spacing_mm=2.0)
MINORITY_CLASSES = (TScoreClass.OSTEOPOROSIS,)
INTENDED_USE = (
    "Demonstration and research only: shows how the software works. Trained on simulated CT; its answers on real "
    "patients have no known accuracy. Not a medical device."
)


@dataclass(frozen=True)
class DemonstrationSettings:
    """What the command asks for; with the code, all that decides the result."""

    cases: int = 8000
    validation_cases: int = 1500
    test_cases: int = 3000
    seed: int = 20240
    threads: int = 2
    resamples: int = 300
    train: TrainSettings = field(default_factory=lambda: TrainSettings(Architecture(width=16)))
    preprocessing: Preprocessing = PREPROCESSING
    cohort: CohortModel = field(default_factory=CohortModel)

    def request(self, split: str) -> CropRequest:
        """The crops of one split."""
        return CropRequest(split, self.seed, self.preprocessing, self.cohort)


def run_demonstration(settings: DemonstrationSettings, run: Path, crops: Path, output: Path) -> ModelCard:
    """Everything from nothing. run: checkpoints, log, evaluation.json. output: weights, manifest, MODEL_CARD.md."""
    torch.set_num_threads(settings.threads)
    training = cached_crops(crops, settings.request("train"), settings.cases)
    validation = cached_crops(crops, settings.request("validation"), settings.validation_cases)
    trained = train(settings.train, training, validation, run)

    reading = LogitReading(
        dict(zip(CLASS_ORDER, trained.class_prior, strict=True)), MINORITY_CLASSES, settings.train.tau1
    )
    trained, scale = _calibrate(trained, settings, reading, validation)
    choice = choose_adjustment(reading, _logits(trained, settings, validation), validation.classes)
    card = _card(settings, reading, choice)
    output.mkdir(parents=True, exist_ok=True)
    file = output / f"{NAME}.npz"
    # The stored half-precision weights are what is evaluated, not the ones they were rounded from.
    draft = weights.save_weights(file, half_precision(trained.state), card)
    network = weights.load_network(draft, file)
    on_validation = evaluation.evaluate_network(
        network_logits(network, validation), reading, choice.adjustment, validation, settings.resamples
    )

    test = cached_crops(crops, settings.request("test"), settings.test_cases)
    logits = network_logits(network, test)
    on_test = evaluation.evaluate_network(logits, reading, choice.adjustment, test, settings.resamples)
    answers = reading.probabilities(logits, choice.adjustment)
    report: dict[str, Any] = {
        "settings": asdict(settings),
        "epoch_chosen": trained.epoch + 1,
        "logit_scale": scale,
        "choice": {"reason": choice.reason, "candidates": choice.candidates},
        "ceiling": asdict(settings.cohort.bayes_ceiling()),
        "validation": on_validation,
        "test": on_test,
        "readers_on_test": evaluation.compare_readers(answers, training, test, settings.cohort, settings.resamples),
    }
    (run / "evaluation.json").write_text(json.dumps(report, indent=1), "utf-8")
    card = weights.save_weights(
        file, half_precision(trained.state), replace(card, validation=model_card.summary(report))
    )
    model_card.write_manifest(output / weights.MANIFEST, card)
    (output / "MODEL_CARD.md").write_text(model_card.as_markdown(card, report, file.stat().st_size), "utf-8")
    return card


def half_precision(state: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Arrays to store: float16 where floating. Raises ValueError if a weight does not fit into half precision."""
    arrays = {}
    for name, tensor in state.items():
        array = tensor.detach().contiguous().numpy()
        if array.dtype.kind == "f" and not np.abs(array).max() <= np.finfo(np.float16).max:
            raise ValueError(f"{name} does not fit into half precision")
        arrays[name] = array.astype(np.float16) if array.dtype.kind == "f" else array
    return arrays


def _calibrate(
    trained: TrainedNetwork, settings: DemonstrationSettings, reading: LogitReading, validation: CropSet
) -> tuple[TrainedNetwork, float]:
    """Fold the logit scale that fits validation best into the last layer; the order of classes can't change by it."""
    log_prior = np.log([reading.class_prior[c] for c in CLASS_ORDER])
    scale = fit_logit_scale(_logits(trained, settings, validation), validation.classes, log_prior, reading.tau1_train)
    state = dict(trained.state)
    state["fc.weight"], state["fc.bias"] = state["fc.weight"] * scale, state["fc.bias"] * scale
    return replace(trained, state=state), scale


def _logits(trained: TrainedNetwork, settings: DemonstrationSettings, cases: CropSet) -> Any:
    from medconv.network import build_network

    network = build_network(settings.train.architecture)
    network.load_state_dict(trained.state)
    return network_logits(network, cases)


def _card(settings: DemonstrationSettings, reading: LogitReading, choice: AdjustmentChoice) -> ModelCard:
    return ModelCard(
        name=NAME,
        file=f"{NAME}.npz",
        sha256="",
        architecture=settings.train.architecture,
        preprocessing=settings.preprocessing,
        class_prior=reading.class_prior,
        minority_classes=MINORITY_CLASSES,
        tau1_train=settings.train.tau1,
        default_adjustment=Adjustment(choice.adjustment.method, choice.adjustment.tau1, choice.adjustment.tau2),
        trained_on=f"{settings.cases} simulated CTs of L1 with simulated T-scores; no patient data",
        intended_use=INTENDED_USE,
        licence="Apache-2.0",
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
    parser.add_argument("--width", type=int, default=default.train.architecture.width)
    parser.add_argument("--weight-decay", type=float, default=default.train.weight_decay)
    parser.add_argument("--learning-rate", type=float, default=default.train.learning_rate)
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
        train=TrainSettings(
            Architecture(width=options.width),
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
