"""All that decides a training run besides its data: one frozen dataclass, kept with the run as JSON."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from medconv.config import Preprocessing
from medconv.training.parts.sampling import NATURAL, NO_AUGMENTATION, Augmentation
from medconv.types import UsageError

AMP = ("auto", "off", "bf16", "fp16")
TARGETS = ("class", "truth-posterior")
SELECT = ("likelihood", "accuracy", "last")
_TUPLES = ("size_xyz", "window_hu")
_LEAST: Mapping[str, float] = {
    "width": 1, "tau1": 0, "weight_decay": 0, "warm_up": 0, "epochs": 1, "batch_size": 2, "accumulate": 1,
    "ema_decay": 0, "patience": 0, "seed": 0,
}  # fmt: skip


def one_of(name: str, value: str, names: Collection[str]) -> None:
    """Raise UsageError naming the known ones unless `value` is one of `names`."""
    if value not in names:
        raise UsageError("unknown_setting", f"{name} '{value}' is not known.", f"Choose one of: {', '.join(names)}.")


@dataclass(frozen=True)
class RunSettings:
    """The defaults are the preset "default"; `PRESETS` has the others.

    backbone, head, loss, sampling, optimiser: names in `backbones`, `heads`, `class_losses`, `sampling`, `optimisers`.
    width: channels after the stem of our own ResNets (64 is the original), not used by other backbones. texture: their
        stem also sees the local unevenness of bone. windows: brain, soft tissue and bone window as three channels.
    tau1: of the logit-adjusted loss; 0 gives plain cross-entropy. targets: "truth-posterior" trains on P(class | z) of
        a simulated cohort instead of the class that chance gave the patient.
    beta, gamma, class_share: of the losses that know them (`LossSettings`) and of the joint head.
    pretrained: a file of 2D or 3D weights to start from. warm_up: steps of rising learning rate.
    batch_size: patients of one optimiser step; accumulate: the number of parts in which it is computed, to save memory.
        Batch norm sees one part.
    amp: number format on CUDA; "auto" is bf16 or fp16 there, and float32 elsewhere.
    ema_decay: of the running mean of the weights that is evaluated and kept; 0: the weights themselves.
    patience: epochs without a better validation figure after which training ends; 0: never.
    select: which epoch is kept: the best class-balanced likelihood or balanced accuracy on validation, or the last.
    """

    backbone: str = "resnet50"
    width: int = 32
    texture: bool = False
    head: str = "classes"
    loss: str = "balce"
    tau1: float = 1.0
    beta: float = 0.9999
    gamma: float = 2.0
    class_share: float = 0.5
    targets: str = "class"
    pretrained: str | None = None
    sampling: str = NATURAL
    augmentation: Augmentation = field(default_factory=Augmentation)
    windows: bool = False
    optimiser: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 100
    epochs: int = 60
    batch_size: int = 16
    accumulate: int = 1
    ema_decay: float = 0.0
    amp: str = "auto"
    patience: int = 15
    select: str = "likelihood"
    seed: int = 0
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        """Raises UsageError for a value that means nothing. Names of parts are checked by `assembly`."""
        for name, names in (("amp", AMP), ("targets", TARGETS), ("select", SELECT)):
            one_of(name, getattr(self, name), names)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise UsageError("setting_out_of_range", f"{name} is {value:g}.", f"Choose {least:g} or more.")
        if not self.learning_rate > 0:
            raise UsageError("setting_out_of_range", f"learning_rate is {self.learning_rate:g}.", "Choose above 0.")
        if not self.ema_decay < 1:
            raise UsageError(
                "setting_out_of_range", f"ema_decay is {self.ema_decay:g}.", "Choose from 0 to below 1, such as 0.999."
            )
        if self.batch_size % self.accumulate:
            raise UsageError(
                "batch_not_divisible",
                f"A batch of {self.batch_size} can't be computed in {self.accumulate} equal parts.",
                "Choose a batch size that is a multiple of accumulate.",
            )
        if self.batch_size // self.accumulate < 2:
            raise UsageError(
                "batch_too_small",
                f"A batch of {self.batch_size} in {self.accumulate} parts has 1 patient a part: batch norm needs 2.",
                "Choose a larger batch size or a smaller accumulate.",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        content = asdict(self)
        content["preprocessing"] |= {name: list(content["preprocessing"][name]) for name in _TUPLES}
        return content

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> RunSettings:
        """What `to_json` gave. Raises UsageError for fields that are unknown or of another kind."""
        known = {f.name for f in fields(RunSettings)}
        if unknown := sorted(set(content) - known):
            raise UsageError(
                "unknown_setting", f"There is no setting '{unknown[0]}'.", f"Settings: {', '.join(sorted(known))}."
            )
        try:
            values = dict(content)
            if "preprocessing" in values:
                grid = dict(values["preprocessing"])
                grid |= {name: tuple(grid[name]) for name in _TUPLES if name in grid}
                values["preprocessing"] = Preprocessing(**grid)
            if "augmentation" in values:
                values["augmentation"] = Augmentation(**values["augmentation"])
            return RunSettings(**values)
        except (TypeError, ValueError) as error:
            raise UsageError(
                "settings_unreadable", f"The settings can't be read ({error}).", "Expected a run's settings.json."
            ) from error

    def with_changes(self, **changes: Any) -> RunSettings:
        """A copy with some values replaced."""
        return replace(self, **changes)


# By name, for commands.
AUGMENTATIONS: Mapping[str, Augmentation] = {
    "none": NO_AUGMENTATION,
    "shift": Augmentation(),
    "full": Augmentation(rotation_degrees=10.0, scaling=0.05, noise_hu=8.0),
}
# What the authors' script does: 3D ResNet-50 on three equal channels, no augmentation, no early end. The size, spacing
# and window of their input are not published: ours stand in.
_PAPER = RunSettings(
    width=64,
    augmentation=NO_AUGMENTATION,
    learning_rate=1e-3,
    weight_decay=0.01,
    warm_up=0,
    epochs=200,
    batch_size=8,
    patience=0,
    select="accuracy",
    preprocessing=Preprocessing(channels=3),
)
# Two cores: 80 x 96 x 72 mm at 2 mm is a third of the work of 1.5 mm.
_CPU = RunSettings(
    width=16,
    epochs=30,
    learning_rate=2e-3,
    patience=10,
    preprocessing=Preprocessing(size_xyz=(40, 48, 36), spacing_mm=2.0),
)
PRESETS: Mapping[str, RunSettings] = {"default": RunSettings(), "cpu": _CPU, "paper": _PAPER}


def preset(name: str) -> RunSettings:
    """The settings of that name. Raises UsageError naming the known ones."""
    one_of("preset", name, PRESETS)
    return PRESETS[name]
