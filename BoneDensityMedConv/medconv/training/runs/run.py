"""A training run from data to answer: train, or go on where it was left; then what it says of the validation set."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medconv.training.cohorts.cases import VALIDATION
from medconv.training.cohorts.crops import CropSet
from medconv.training.figures.choice import choose_on_validation
from medconv.training.figures.predictions import Predictions
from medconv.training.parts import assembly
from medconv.training.parts.heads import Head
from medconv.training.runs import precision, run_folder
from medconv.training.runs.distributed import joined, process_lost
from medconv.training.runs.loop import Job, Training
from medconv.training.runs.readout import as_predictions, read_out
from medconv.training.runs.run_log import EpochRow, Listener, Silent
from medconv.training.runs.run_settings import RunSettings
from medconv.training.runs.training_data import training_data
from medconv.types import FloatArray, MedConvError


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: the chosen epoch's weights, and what they say of the validation set."""

    run: Path
    settings: RunSettings
    state: dict[str, Tensor]
    epoch: int
    rows: tuple[EpochRow, ...]
    class_prior: tuple[float, ...]
    head: Head
    predictions: Predictions

    @property
    def tau1_train(self) -> float:
        """Of `Predictions`: how much of log π the logits have taken out."""
        return self.head.tau1_train


def train_run(
    settings: RunSettings, training: CropSet, validation: CropSet, run: Path, *, device: str = "auto",
    soft: FloatArray | None = None, progress: Listener | None = None, about: Callable[[], None] = lambda: None,
) -> TrainedRun:  # fmt: skip
    """Train, or go on where `run` was left; under torchrun, as one of its processes.

    soft: (n, 3) class probabilities of the training cases, for settings with targets "truth-posterior". about: called
    once the folder is this run's, to describe its data there.
    Raises UsageError (settings or data that do not go together, a folder of another run), InputRefused (a damaged
    folder), MissingRequirement (device), MedConvError (loss not finite, memory full).
    """
    assembly.check_names(settings)
    chosen_device, listener = precision.choose(settings, device), progress or Silent()
    with joined(chosen_device) as processes, precision.deterministic(), ExitStack() as stack:
        data = training_data(settings, training, validation, soft)
        processes.from_first(lambda: stack.enter_context(run_folder.held(run)))
        processes.from_first(lambda: _claim(run, data.identity(settings), about))
        job = Job(settings, data, run, chosen_device, processes, listener if processes.first else Silent())
        accumulate = settings.accumulate
        while (wanted := _train(job, accumulate)) is not None:
            accumulate = wanted
            gc.collect()
            if chosen_device == "cuda":
                torch.cuda.empty_cache()
        return _finish(job)


def _claim(run: Path, identity: Mapping[str, Any], about: Callable[[], None]) -> None:
    run_folder.claim(run, identity)
    about()


def _train(job: Job, accumulate: int) -> int | None:
    """Train to the end; None, or into how many parts to split a batch because memory was full."""
    training = None
    try:
        training = Training(job, accumulate)
        training.run()
        return None
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if process_lost(error):
            raise MedConvError(
                "process_lost",
                "Another process of this training has ended.",
                "See what it said, then start the same command again: it goes on after the last whole epoch.",
            ) from error
        if not precision.out_of_memory(error):
            raise
        parts = training.accumulate if training is not None else accumulate
    return precision.smaller_parts(job.settings.batch_size, parts, job.processes.count, job.listener)


def _finish(job: Job) -> TrainedRun:
    """Let the chosen weights answer the validation set, choose on it, and note that the run is done."""
    processes, run, data, settings = job.processes, job.run, job.data, job.settings
    checkpoint = processes.from_first(lambda: run_folder.load_checkpoint(run))
    assert checkpoint is not None
    rows = tuple(EpochRow(**row) for row in checkpoint["rows"])
    epoch = max(row.epoch for row in rows if row.chosen)
    state = processes.from_first(lambda: run_folder.load_weights(run / run_folder.BEST))
    parts = network_of(settings, data.class_counts, state, epoch)
    parts.network.to(job.device, memory_format=torch.channels_last_3d)
    parts.head.to(job.device)
    logits, t_scores = read_out(parts.head, parts.network, data.validation, settings, job.device, processes)
    tau1 = parts.head.tau1_train
    predictions = as_predictions(VALIDATION, data.validation, logits, t_scores, data.class_prior, tau1)
    if processes.first:
        predictions.save(run / run_folder.PREDICTIONS)
        if not (run / run_folder.CHOICE).exists():  # made once: a later one would know of test readings
            choose_on_validation(predictions).save(run)
        # What only a further epoch would need (three times the weights) is let go.
        run_folder.save_checkpoint(run, {"rows": checkpoint["rows"], "accumulate": checkpoint["accumulate"]})
    return TrainedRun(run, settings, state, epoch, rows, data.class_prior, parts.head, predictions)


def network_of(
    settings: RunSettings, class_counts: tuple[int, ...], state: dict[str, Tensor], epoch: int
) -> assembly.Parts:
    """Network and head with a run's weights of that epoch, ready to be read, on the CPU."""
    parts = assembly.build_parts(settings, class_counts)
    parts.network.load_state_dict(state)
    parts.network.eval()
    parts.head.start_epoch(epoch, settings.epochs)
    return parts
