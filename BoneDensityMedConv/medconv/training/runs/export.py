"""A finished run as one weight file for Slicer: half precision, logit scale folded in, the card filled in, checked.

Nothing here reads a test set. The check uses simulated vertebrae, so that a run can be packed where its CTs are not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medconv import weights
from medconv.config import CLASS_ORDER, Architecture, ModelCard, Preprocessing
from medconv.population import Population
from medconv.simulate.cohort import CohortModel
from medconv.training.cohorts.crops import LEVELS, CropRequest, simulate_crop
from medconv.training.figures.choice import LogitReading, RunChoice
from medconv.training.figures.metrics import balanced_accuracy, osteoporosis_auc
from medconv.training.figures.predictions import Predictions
from medconv.training.parts import assembly, backbones
from medconv.training.parts.heads import Head
from medconv.training.runs import run_folder
from medconv.training.runs.run import network_of
from medconv.training.runs.run_log import EpochRow
from medconv.training.runs.run_settings import RunSettings
from medconv.types import InputRefused, UsageError

# Largest difference of a logit between the run and its weight file, over the probe: about one per cent of probability.
TOLERANCE = {"half": 0.05, "full": 1e-3}
PROBE_CASES = 4
PROBE_SEED = 20240
FOLDS_SCALE = ("classes", "joint")  # heads whose class logits are outputs of the last layer
INTENDED_USE = (
    "Research use only; not a medical device. Its accuracy is known only on the patients whom it was validated on."
)
SIMULATED_USE = (
    "Demonstration and research only. Trained on simulated CT; its answers on real patients have no known accuracy. "
    "Not a medical device."
)


@dataclass(frozen=True)
class FinishedRun:
    """What a run's folder holds once it is done."""

    run: Path
    settings: RunSettings
    class_counts: tuple[int, ...]
    epoch: int
    state: dict[str, Tensor]
    predictions: Predictions
    choice: RunChoice
    data: Mapping[str, Any]

    @staticmethod
    def open(run: Path) -> FinishedRun:
        """Read a run. Raises InputRefused if it is none, or is not finished."""
        content = run_folder.read_settings(run)
        checkpoint = run_folder.load_checkpoint(run)
        if checkpoint is None or not (run / run_folder.CHOICE).exists():
            raise InputRefused(
                "run_not_finished", f"{run} is not trained to its end.", "Start 'medconv train' again; it goes on."
            )
        rows = [EpochRow(**row) for row in checkpoint["rows"]]
        return FinishedRun(
            run=run,
            settings=RunSettings.from_json(content["settings"]),
            class_counts=tuple(content["class_counts"]),
            epoch=max(row.epoch for row in rows if row.chosen),
            state=run_folder.load_weights(run / run_folder.BEST),
            predictions=Predictions.load(run / run_folder.PREDICTIONS),
            choice=RunChoice.load(run),
            data=run_folder.read_data(run),
        )

    def parts(self) -> assembly.Parts:
        """The run's own network and head, ready to be read, on the CPU."""
        return network_of(self.settings, self.class_counts, self.state, self.epoch)


@dataclass(frozen=True)
class Exported:
    """The file's card, and the largest difference of a logit from the run's own that the check found."""

    card: ModelCard
    largest_difference: float
    tolerance: float


def export_run(
    run: Path, out: Path, *, name: str | None = None, precision: str = "half", licence: str = "not stated"
) -> Exported:
    """Pack a run's chosen weights. The file appears only if it gives the run's own logits within TOLERANCE.

    Raises UsageError for a network that Slicer can't run, InputRefused for a run that is not finished or does not fit
    into half precision.
    """
    finished = FinishedRun.open(run)
    parts = finished.parts()
    shape = _architecture(finished.settings, parts.head)
    scale = finished.choice.logit_scale
    if shape.head not in FOLDS_SCALE:
        shape = replace(shape, logit_scale=scale)
    state = folded(finished.state, parts.head, scale if shape.head in FOLDS_SCALE else 1.0)
    arrays = _arrays(state, precision)
    card = _card(finished, shape, parts.head, name or run.resolve().name, out.name, licence)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial.npz")
    try:
        draft = weights.save_weights(partial, arrays, card)
        difference = _largest_difference(finished, parts, draft, partial)
        tolerance = TOLERANCE[precision]
        if not difference <= tolerance:
            raise InputRefused(
                "export_differs",
                f"The packed weights' logits differ from the run's by {difference:.3g}, allowed is {tolerance:g}.",
                "Export with --precision full.",
            )
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return Exported(replace(draft, file=out.name), difference, tolerance)


def half_precision(state: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Arrays to store: float16 where floating. Raises ValueError if a weight does not fit into half precision."""
    arrays = {}
    for name, tensor in state.items():
        array = tensor.detach().contiguous().numpy()
        if array.dtype.kind == "f" and not np.abs(array).max() <= np.finfo(np.float16).max:
            raise ValueError(f"{name} does not fit into half precision")
        arrays[name] = array.astype(np.float16) if array.dtype.kind == "f" else array
    return arrays


def _arrays(state: Mapping[str, Tensor], precision: str) -> dict[str, NDArray[Any]]:
    if precision != "half":
        return {name: tensor.numpy() for name, tensor in state.items()}
    try:
        return half_precision(state)
    except ValueError as error:
        raise InputRefused("export_differs", f"The weight {error}.", "Export with --precision full.") from error


def _architecture(settings: RunSettings, head: Head) -> Architecture:
    found = assembly.architecture(settings, head)
    if found is not None:
        return found
    own = ", ".join(spec.name for spec in backbones.BACKBONES.values() if spec.packable)
    if settings.windows:
        why, remedy = "its input is three HU windows, and Slicer's crop has one", "Train without --windows."
    elif head.reading is None:
        why = f"the loss '{settings.loss}' needs a reading of its own"
        remedy = "Train with --loss ce, balce, balce_paper or class_balanced."
    else:
        why, remedy = f"Slicer has no '{settings.backbone}'", f"Train one of: {own}."
    raise UsageError("not_packable", f"This run can't be packed for Slicer: {why}.", f"{remedy} It can be evaluated.")


def folded(state: Mapping[str, Tensor], head: Head, scale: float) -> dict[str, Tensor]:
    """The weights with the head's fixed offset and the logit scale in the last layer; T-scores are left alone."""
    result = dict(state)
    weight, bias = state["fc.weight"].clone(), state["fc.bias"].clone()
    offset = head.bias_offset()
    if offset is not None:
        bias += offset.cpu()
    logits = slice(0, len(CLASS_ORDER)) if head.reading == "joint" else slice(None)
    weight[logits] *= scale
    bias[logits] *= scale
    return result | {"fc.weight": weight, "fc.bias": bias}


def _card(finished: FinishedRun, shape: Architecture, head: Head, name: str, file: str, licence: str) -> ModelCard:
    data, predictions, choice = finished.data, finished.predictions, finished.choice
    reading = LogitReading.of(predictions)
    answers = reading.probabilities(predictions.logits * choice.logit_scale, choice.adjustment)
    simulated = bool(data.get("simulated", False))
    measured = data.get("population")
    reference = str(data.get("reference", "not stated"))
    counts = ", ".join(f"{n} {c}" for n, c in zip(finished.class_counts, CLASS_ORDER, strict=True))
    return ModelCard(
        name=name,
        file=file,
        sha256="",
        architecture=shape,
        preprocessing=finished.settings.preprocessing,
        class_prior=reading.class_prior,
        minority_classes=choice.minority_classes,
        tau1_train=head.tau1_train,
        default_adjustment=choice.adjustment,
        trained_on=f"{sum(finished.class_counts)} {'simulated ' if simulated else ''}CTs ({counts}) of the cohort "
        f"'{data.get('cohort', 'not named')}', reference standard {reference}",
        intended_use=SIMULATED_USE if simulated else INTENDED_USE,
        licence=licence,
        simulated_only=simulated,
        conformal=choice.conformal,
        population=Population.from_json(measured).with_answers(answers) if measured else None,
        validation={
            "reference_standard": reference,
            "validation": {
                "cases": len(predictions),
                "balanced_accuracy": round(balanced_accuracy(predictions.classes, answers), 4),
                "osteoporosis_auc": round(osteoporosis_auc(predictions.classes, answers), 4),
            },
            "chosen": choice.reason,
        },
    )


def _largest_difference(finished: FinishedRun, parts: assembly.Parts, card: ModelCard, file: Path) -> float:
    """max |logit of the file − logit of the run times its scale| over simulated vertebrae."""
    crops = probe(finished.settings.preprocessing)
    packed = weights.load_network(card, file)
    with torch.inference_mode():
        own, _ = parts.head.to_logits(parts.network(crops))
        difference = packed(crops) - own * finished.choice.logit_scale
    # A constant added to all logits changes no probability: "one_vs_rest" and posteriors differ by none.
    return float(difference.abs().max())


def probe(preprocessing: Preprocessing) -> Tensor:
    """Some simulated vertebrae as the network's input, (n, C, z, y, x): the same every time."""
    request = CropRequest("train", PROBE_SEED, preprocessing, CohortModel())
    crops = np.stack([simulate_crop(request, index)[0] for index in range(PROBE_CASES)])
    return torch.from_numpy(crops).float() / LEVELS
