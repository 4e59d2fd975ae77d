"""What a batch is to do, settled before the first case: from the options, the folder, and a look at the weights."""

from __future__ import annotations

import argparse
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

from medconv import mask_source, processes, vertebrae, worker_errors
from medconv.batch.settings import BatchSettings, check_same
from medconv.devices import check_device
from medconv.inference import LoadedModel, require_torch
from medconv.predict_command import chosen_adjustment
from medconv.types import MedConvError, MissingRequirement, UsageError
from medconv.weights import find_model, sha256_of

AUTO = "auto"


def settle(options: argparse.Namespace, begun: BatchSettings | None) -> BatchSettings:
    """The settings that the options ask for; what they leave open stays as it was begun.

    Raises UsageError (options that contradict each other, or what was begun), MissingRequirement (weights).
    """
    _check(options)
    card, path = find_model(options.weights)
    named = options.weights and Path(options.weights).is_file() and card.name != options.weights
    segmenter: dict[str, Any] = {}
    label_map = _label_map(options.label_map)
    if options.segmenter:
        segmenter = vars(mask_source.request_of(options.segmenter, options)).copy()
    wanted = BatchSettings(
        inputs=tuple(str(path.absolute()) for path in options.inputs),
        masks=str(options.masks.absolute()) if options.masks else "",
        label=options.label,
        label_map=label_map,
        label_map_sha256=sha256_of(Path(label_map)) if Path(label_map).is_file() else "",
        weights=str(path.absolute()) if named else card.name,
        weights_sha256=card.sha256,
        device=options.device,
        runtime=options.runtime,
        adjustment=vars(chosen_adjustment(options, card)).copy(),
        segmenter=segmenter,
        reports=options.reports,
        dicom=options.dicom,
    )
    if begun is None:
        return wanted.with_versions()
    if wanted.device == AUTO:
        wanted = replace(wanted, device=begun.device)
    if wanted.runtime == AUTO:
        wanted = replace(wanted, runtime=begun.runtime)
    check_same(options.out, begun, wanted.with_versions())
    return begun


class Look:
    """A process that loads the weights once and says on what they run best here; it works while cases are listed."""

    def __init__(self, settings: BatchSettings) -> None:
        require_torch()
        self._settings = settings
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        with processes.one_thread_each():
            self._process = context.Process(target=_look, args=(theirs, settings.to_json()))
            self._process.start()
        theirs.close()

    def result(self) -> BatchSettings:
        """The settings with device and runtime decided. Raises MedConvError as `LoadedModel.load`."""
        try:
            told = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise MissingRequirement(
                "worker_not_started",
                f"The process that loads the weights ended by itself (exit code {self._process.exitcode}).",
                "Try 'medconv predict' with one of the CTs.",
            ) from None
        self._process.join()
        if isinstance(told, MedConvError):
            raise told
        return replace(self._settings, **told).with_versions()

    def close(self) -> None:
        """End it. Safe to call more than once."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._pipe.close()


def _look(pipe: Any, settings: dict[str, Any]) -> None:
    """Runs in a process of its own, so that the batch's main process stays small: torch takes hundreds of megabytes."""
    try:
        model = LoadedModel.load(settings["weights"], settings["device"], settings["runtime"])
        pipe.send({"device": model.device, "runtime": model.runtime})
    except Exception as error:  # noqa: BLE001 - the main process says it
        pipe.send(worker_errors.explain(error, "batch"))


def _check(options: argparse.Namespace) -> None:
    check_device(options.device)
    if options.label is not None and options.label_map:
        raise UsageError("label_named_twice", "--label and --label-map both name L1's label.", "Give one of the two.")
    if options.segmenter and options.masks:
        raise UsageError(
            "two_sources", "L1 comes either from masks or from a segmenter.", "Leave out --masks or --segmenter."
        )
    if options.segmenter and options.label is not None:
        raise UsageError("label_without_mask", "--label belongs to masks.", "Leave it out, or give --masks DIR.")
    if options.masks and not options.masks.is_dir():
        raise UsageError("masks_missing", f"There is no folder {options.masks}.", "Correct --masks.")
    if options.time_limit is not None and not options.time_limit > 0:  # also not a number
        raise UsageError("time_limit_not_positive", "The time limit must be above 0 minutes.", "Give --time-limit MIN.")
    if options.workers is not None and options.workers < 1:
        raise UsageError("no_workers", f"--workers must be 1 or more, got {options.workers}.", "Correct it.")


def _label_map(given: str | None) -> str:
    if not given:
        return ""
    vertebrae.read_label_map(given)  # said now, not once for each case
    return given if given in vertebrae.LABEL_MAPS else str(Path(given).absolute())
