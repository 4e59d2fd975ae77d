"""`medconv train`: from a folder of CTs with T-scores to a trained, chosen and documented network.

Killed at any point, the same command goes on. Under torchrun every process runs this command; the first one speaks,
writes, and prepares the crops while the others wait.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medconv import console, train_summary
from medconv.command_line import Commands
from medconv.packages import how_to_install
from medconv.train_options import add_arguments, plan_of, settings_of
from medconv.types import InputRefused, MedConvError, MissingRequirement, UsageError

if TYPE_CHECKING:
    from medconv.config import Preprocessing
    from medconv.population import Population
    from medconv.training.cohorts.cases import Cohort
    from medconv.training.cohorts.crops import CropSet
    from medconv.training.runs.distributed import Processes
    from medconv.training.runs.run import TrainedRun
    from medconv.training.runs.run_settings import RunSettings

SPLITS = "splits.csv"
SAME_EVERYWHERE = ("loss_not_finite",)  # errors that every process meets: one of them tells


def add_train(commands: Commands) -> None:
    p = commands.add_parser("train", help="a network from a folder of CTs with T-scores; goes on after a kill")
    add_arguments(p)
    p.set_defaults(run=run_train)


def run_train(options: argparse.Namespace) -> int:
    """Train one run, or one a fold. Raises MedConvError; Ctrl+C says how to go on."""
    _require_packages()
    settings = settings_of(options)
    if options.list_backbones:
        return _list_backbones(settings)
    if options.cohort is None or options.out is None:
        raise UsageError(
            "train_inputs", "Training needs a cohort folder and a folder for the run.", "medconv train COHORT --out RUN"
        )
    from medconv.training.parts import assembly
    from medconv.training.runs import precision
    from medconv.training.runs.distributed import joined

    assembly.check_names(settings)
    if options.threads is not None:
        _set_threads(options.threads)
    with joined(precision.choose(settings, options.device)) as processes, console.heartbeat():
        try:
            return _train(options, settings, processes)
        except KeyboardInterrupt:
            console.clear()
            if processes.first:
                print(f"Stopped. What was trained is kept in {options.out}: the same command goes on.")
            return 130
        except MedConvError as error:
            if not processes.first and (isinstance(error, UsageError | InputRefused) or error.code in SAME_EVERYWHERE):
                return error.exit_code  # the first process tells
            raise
        finally:
            console.clear()


@dataclass(frozen=True)
class Ears:
    """`run_log.Listener` of a terminal: a line that rewrites itself, and one an epoch that stays."""

    prefix: str = ""

    def step(self, text: str, fraction: float) -> None:
        """Of `run_log.Listener`."""
        console.say(self.prefix + text, fraction)

    def told(self, text: str) -> None:
        """Of `run_log.Listener`."""
        console.clear()
        print(self.prefix + text, flush=True)


def _train(options: argparse.Namespace, settings: RunSettings, processes: Processes) -> int:
    from medconv.training.cohorts.splits import cross_validation

    cohort = _cohort(options, processes)
    crops = _Crops(options, settings, processes)
    if options.folds is None:
        trained = _one_run(options, settings, cohort, options.out, crops, processes)
        if processes.first:
            train_summary.print_run(options.out, options.cohort, cohort, trained)
        return 0
    found = []
    for fold in cross_validation(
        cohort, options.folds, options.repeats, options.split_seed, keep_test=options.keep_test
    ):
        name = f"repeat_{fold.repeat + 1}_fold_{fold.number + 1}"
        trained = _one_run(options, settings, fold.cohort, options.out / name, crops, processes, f"{name}: ")
        found.append((name, trained))
        if processes.first:
            train_summary.write_folds(options.out / train_summary.FOLDS, found)
    if processes.first:
        train_summary.print_folds(options.out, options.cohort, found)
    return 0


def _cohort(options: argparse.Namespace, processes: Processes) -> Cohort:
    """The cohort with its splits checked; a cohort without splits is split by the plan, or as the run has it."""
    from medconv.training.cohorts.cohort_folder import read_cohort, summary
    from medconv.training.cohorts.leaks import check_leaks
    from medconv.training.cohorts.splits import read_splits, split_cohort

    cohort = read_cohort(options.cohort, options.labels, progress=_say(processes))
    console.clear()
    if processes.first:
        train_summary.print_cohort(cohort, summary(cohort.left_out))
    if options.folds is None and not all(case.split for case in cohort.cases):
        known: Path = options.out / SPLITS
        cohort = read_splits(known, cohort) if known.is_file() else split_cohort(cohort, plan_of(options))
    if processes.first:
        check_leaks(cohort, pixels=False)  # the CTs themselves are compared when the crops are made
    return cohort


@dataclass
class _Crops:
    """Crops of a cohort: made by the first process, then read by all; a cross-validation reads one set."""

    options: argparse.Namespace
    settings: RunSettings
    processes: Processes
    whole: CropSet | None = None

    def parts(self, cohort: Cohort) -> tuple[CropSet, CropSet]:
        """Training and validation crops."""
        from medconv.training.cohorts.cases import TRAIN, VALIDATION
        from medconv.training.cohorts.crop_cache import subset

        if self.options.folds is None:
            return self._read(cohort, TRAIN), self._read(cohort, VALIDATION)
        if self.whole is None:
            self.whole = self._read(cohort, None)
        ids = ([case.case_id for case in cohort.part(split)] for split in (TRAIN, VALIDATION))
        training, validation = (subset(self.whole, chosen) for chosen in ids)
        return training, validation

    def population(self, cohort: Cohort, training: CropSet) -> Population:
        """The training cases as numbers, from what was measured while their crops were made."""
        from medconv.training.cohorts.cases import TRAIN
        from medconv.training.cohorts.crop_cache import case_facts, population_of

        split = TRAIN if self.options.folds is None else None
        return population_of(case_facts(cohort, split, self._grid, self._cache), training)

    @property
    def _cache(self) -> Path:
        return Path(self.options.cache or self.options.cohort / "crop_cache")

    @property
    def _grid(self) -> Preprocessing:
        return replace(self.settings.preprocessing, channels=1)  # repeated when it is fed

    def _read(self, cohort: Cohort, split: str | None) -> CropSet:
        from medconv.training.cohorts.crop_cache import cohort_crops
        from medconv.training.runs.distributed import after_first

        options = self.options

        def read() -> CropSet:
            return cohort_crops(
                cohort,
                split,
                self._grid,
                self._cache,
                workers=options.workers,
                progress=_say(self.processes),
                strict=options.strict,
            )

        found = after_first(self.processes, read)
        console.clear()
        return found


def _one_run(
    options: argparse.Namespace, settings: RunSettings, cohort: Cohort, run: Path, crops: _Crops,
    processes: Processes, prefix: str = "",
) -> TrainedRun:  # fmt: skip
    from medconv.training.runs.run import train_run

    training, validation = crops.parts(cohort)
    if processes.first:
        console.say("Preparing the training")
    soft = None
    if settings.targets != "class" and cohort.model is not None:
        soft = cohort.model.class_given_signal(training.signals)
    trained = train_run(
        settings, training, validation, run, device=options.device, soft=soft, progress=Ears(prefix),
        about=lambda: _describe(run, cohort, crops.population(cohort, training), len(training), len(validation)),
    )  # fmt: skip
    console.clear()
    return trained


def _describe(run: Path, cohort: Cohort, population: Population, training: int, validation: int) -> None:
    """Write what people and exported weights are told of the data: no patient, no path."""
    from medconv.training.cohorts.splits import write_splits
    from medconv.training.runs.run_folder import DATA, write_whole

    content = {
        "cohort": cohort.name,
        "reference": cohort.reference,
        "simulated": cohort.model is not None,
        "cases": {"train": training, "validation": validation},
        "population": asdict(population),
    }
    write_whole(run / DATA, json.dumps(content, indent=1).encode())
    write_splits(run / SPLITS, cohort)


def _list_backbones(settings: RunSettings) -> int:
    from medconv.training.parts.backbones import describe, table

    x, y, z = settings.preprocessing.size_xyz
    rows = describe((z, y, x), width=settings.width, in_channels=settings.preprocessing.channels)
    print(f"For an input of {x} x {y} x {z} voxels; ResNet-18 to 152 with width {settings.width}:\n{table(rows)}")
    print("Slicer can run resnet18, 34, 50, 101 and 152; the others can be trained and evaluated.")
    return 0


def _require_packages() -> None:
    for package in ("torch", "sklearn"):
        if importlib.util.find_spec(package) is None:
            raise MissingRequirement(
                "training_packages", f"Training needs the package {package}.", how_to_install("train")
            )


def _set_threads(count: int) -> None:
    import torch

    if count < 1:
        raise UsageError("no_threads", f"--threads must be 1 or more, got {count}.", "Correct it.")
    torch.set_num_threads(count)


def _say(processes: Processes) -> Callable[[str, float], None]:
    return console.say if processes.first else lambda stage, fraction: None
