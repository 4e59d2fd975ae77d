"""From a row of the paper to trainings that can be run: the budget's settings, one run a seed, shared where equal.

Rows that differ in the paper can be one run here: a row "with pretraining" without a file of weights is the row from
scratch, and MedConv is the Bal-CE row with its logits adjusted afterwards.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medconv.config import Preprocessing
from medconv.training.paper.paper_tables import CTSPINE1K, PaperRow, PaperTable, Recipe
from medconv.training.parts import backbones, sampling
from medconv.training.runs.run_settings import RunSettings, preset
from medconv.types import InputRefused, UsageError

CPU, FULL = "cpu", "full"
SMALL_VIT = {"vit": "vit_small", "jointvit": "jointvit_small"}
WEIGHT_FILES = (".safetensors", ".npz", ".pth", ".pt", ".bin")
# Our reading of 'trainParams', after timm's training recipes; the lab warms up for an epoch at most.
TRAIN_PARAMS_WEIGHT_DECAY, TRAIN_PARAMS_EMA, TRAIN_PARAMS_WARM_UP = 0.05, 0.99, 10**6


@dataclass(frozen=True)
class Budget:
    """How much is spent on a run. width: of our own ResNets (64 is the original). minutes: what was asked for."""

    name: str
    epochs: int
    width: int
    preprocessing: Preprocessing
    small_vit: bool
    minutes: float | None = None

    def told(self) -> list[str]:
        """What differs from the authors' protocol, in sentences."""
        full = budget_of(FULL)
        x, y, z = self.preprocessing.size_xyz
        said = [
            f"Input: a crop of {x} x {y} x {z} voxels of {self.preprocessing.spacing_mm:g} mm around L1, "
            f"{self.preprocessing.channels} channel{'s' if self.preprocessing.channels > 1 else ''}."
        ]
        if self.epochs != full.epochs:
            said.append(f"{self.epochs} epochs instead of {full.epochs}.")
        if self.width != full.width:
            said.append(
                f"ResNet-18 to 152 start with {self.width} channels instead of 64; other networks have one size."
            )
        if self.small_vit:
            said.append("ViT and JointViT are small ones (timm's ViT-S) instead of JointViT's.")
        return said


@dataclass(frozen=True)
class PlannedRun:
    """One training: the name of its folder, its settings, and whose masks its crops are cut with."""

    name: str
    settings: RunSettings
    segmenter: str


@dataclass(frozen=True)
class PlannedRow:
    """A row and its runs, one a seed. not_pretrained: the paper pretrained it, here it starts from scratch."""

    row: PaperRow
    runs: tuple[PlannedRun, ...]
    not_pretrained: bool


def budget_of(name: str) -> Budget:
    """ "full": the authors' protocol as far as it is known; "cpu": two cores; a number: minutes for the whole table.

    Minutes start from "cpu"; their epochs are set by `with_epochs` when a step of training has been timed.
    Raises UsageError for anything else.
    """
    base = preset("paper")
    if name == FULL:
        return Budget(FULL, base.epochs, base.width, base.preprocessing, small_vit=False)
    small = Preprocessing(size_xyz=(28, 32, 24), spacing_mm=3.0)
    if name == CPU:
        return Budget(CPU, 20, 8, small, small_vit=True)
    try:
        minutes = float(name)
    except ValueError:
        minutes = -1.0
    if not 0 < minutes < 1e6:
        raise UsageError("unknown_budget", f"'{name}' is no budget.", "Give cpu, full, or a number of minutes.")
    return Budget(name, 20, 8, small, small_vit=True, minutes=minutes)


def with_epochs(budget: Budget, seconds_an_epoch: float) -> Budget:
    """A budget of minutes with the epochs that fit, 2 to 60. seconds_an_epoch: one epoch of every run together."""
    if budget.minutes is None:
        return budget
    return replace(budget, epochs=min(max(int(60.0 * budget.minutes / max(seconds_an_epoch, 1e-9)), 2), 60))


def plan_rows(
    table: PaperTable, budget: Budget, seeds: int, pattern: str = "*", pretrained: Mapping[str, Path] | None = None
) -> tuple[PlannedRow, ...]:
    """The rows that match, each with a run a seed. Raises UsageError if none does."""
    if seeds < 1:
        raise UsageError("no_seeds", f"--seeds must be 1 or more, got {seeds}.", "Correct it.")
    chosen = [row for row in table.rows if matches(row.label, pattern, {row.label for row in table.rows})]
    if not chosen:
        labels = ", ".join(row.label for row in table.rows)
        raise UsageError("no_rows", f"No row of {table.key} matches '{pattern}'.", f"Rows: {labels}.")
    files = pretrained or {}
    return tuple(
        PlannedRow(
            row,
            tuple(_run(row.recipe, budget, seed, files) for seed in range(seeds)),
            row.recipe.pretrain and row.recipe.backbone not in files,
        )
        for row in chosen
    )


def matches(label: str, pattern: str, labels: Collection[str] = ()) -> bool:
    """True if a part of the label is like the pattern (* and ? as in file names; | between alternatives).

    labels: an alternative that is one of them means that row alone ("1" is not 0.1).
    """
    parts = [part.strip() for part in pattern.split("|")]
    return any(
        label == part if part in labels else fnmatch.fnmatch(label.lower(), f"*{part.lower()}*") for part in parts
    )


def settings_of(recipe: Recipe, budget: Budget, seed: int, pretrained: Path | None = None) -> RunSettings:
    """What a recipe means in this lab. pretrained: a file of 2D weights; such a network keeps its full size."""
    spec = backbones.find(recipe.backbone)
    start = pretrained if recipe.pretrain else None
    name = SMALL_VIT.get(spec.name, spec.name) if budget.small_vit and start is None else spec.name
    joint = spec.name == "jointvit" and recipe.tau1 == 0
    changes: dict[str, Any] = {
        "backbone": name,
        "width": budget.width if spec.scales and start is None else preset("paper").width,
        "head": "joint" if joint else "classes",
        "loss": "balce" if recipe.tau1 > 0 else "ce",
        "tau1": recipe.tau1,
        "pretrained": None if start is None else str(start),
        "epochs": budget.epochs,
        "seed": seed,
        "preprocessing": budget.preprocessing,
    }
    if recipe.balaug or recipe.resample:
        changes["sampling"] = sampling.BALAUG if recipe.balaug else sampling.RESAMPLE
    if recipe.balaug:
        changes["augmentation"] = sampling.Augmentation()
    if recipe.sam or recipe.schedule_free:
        changes["optimiser"] = "sam" if recipe.sam else "schedule_free"
    if recipe.train_params:
        changes |= {
            "weight_decay": TRAIN_PARAMS_WEIGHT_DECAY, "ema_decay": TRAIN_PARAMS_EMA, "warm_up": TRAIN_PARAMS_WARM_UP,
        }  # fmt: skip
    if recipe.windows:
        grey = replace(budget.preprocessing, window_hu=sampling.covering_window(), channels=1)
        changes |= {"windows": True, "preprocessing": grey}
    return preset("paper").with_changes(**changes)


def run_name(recipe: Recipe, budget: Budget, seed: int, pretrained: bool) -> str:
    """A folder's name: the same for equal trainings, another for different ones (also of another budget)."""
    words = [recipe.backbone]
    words += [f"tau{recipe.tau1:g}"] if recipe.tau1 > 0 else ["ce"]
    flags = ("balaug", "resample", "windows", "sam", "schedule_free", "train_params")
    words += [flag.replace("_", "") for flag in flags if getattr(recipe, flag)]
    words += ["pretrained"] if pretrained else []
    words += ["masksb"] if recipe.segmenter == CTSPINE1K else []
    words += {CPU: [], FULL: [FULL]}.get(budget.name, [f"epochs{budget.epochs}"])
    return "-".join([*words, f"seed{seed}"])


def find_pretrained(path: Path | None) -> dict[str, Path]:
    """Weight files by backbone, each named after its backbone ("resnet50.a1_in1k.safetensors"): a file, or a folder.

    Raises InputRefused if the file is not there or none is named so.
    """
    if path is None:
        return {}
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found: dict[str, Path] = {}
    for file in files:
        name = file.name.lower().split(".")[0]
        if file.is_file() and file.suffix.lower() in WEIGHT_FILES and name in backbones.BACKBONES:
            found.setdefault(name, file)
    if not found:
        known = ", ".join(backbones.BACKBONES)
        raise InputRefused(
            "pretraining_not_found",
            f"{path} is no weight file of a backbone, and holds none.",
            f"Name each file after its backbone, as resnet50.a1_in1k.safetensors. Backbones: {known}.",
        )
    return found


def _run(recipe: Recipe, budget: Budget, seed: int, files: Mapping[str, Path]) -> PlannedRun:
    start = files.get(recipe.backbone) if recipe.pretrain else None
    settings = settings_of(recipe, budget, seed, start)
    return PlannedRun(run_name(recipe, budget, seed, start is not None), settings, recipe.segmenter)
