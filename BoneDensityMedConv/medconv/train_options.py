"""The options of `medconv train`, and the settings they ask for. Names of parts are checked by the lab itself."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medconv.devices import add_device

if TYPE_CHECKING:
    from medconv.config import Preprocessing
    from medconv.training.cohorts.splits import SplitPlan
    from medconv.training.runs.run_settings import RunSettings

# Options that are a field of RunSettings, by the field's name.
FIELDS = (
    "backbone", "width", "head", "loss", "tau1", "targets", "pretrained", "sampling", "optimiser", "learning_rate",
    "weight_decay", "warm_up", "epochs", "batch_size", "accumulate", "ema_decay", "amp", "patience", "select", "seed",
)  # fmt: skip


def add_arguments(p: argparse.ArgumentParser) -> None:
    """All options, in groups; what is not given is the preset's."""
    p.add_argument("cohort", type=Path, nargs="?", metavar="COHORT", help="folder with CTs and labels.xlsx or .csv")
    p.add_argument("--out", type=Path, metavar="DIR", help="folder of the run; the same command goes on in it")
    p.add_argument("--preset", default="default", metavar="NAME", help="default, cpu (two cores) or paper")
    p.add_argument("--list-backbones", action="store_true", help="print all backbones with their size and cost")
    p.add_argument("--labels", type=Path, metavar="FILE", help="label sheet (default: COHORT/labels.xlsx or .csv)")
    p.add_argument("--cache", type=Path, metavar="DIR", help="folder of the crops (default: COHORT/crop_cache)")
    p.add_argument("--workers", type=int, metavar="N", help="processes that cut out L1 (default: one a core)")
    p.add_argument("--strict", action="store_true", help="stop at the first CT that can't be measured")
    add_device(p)
    p.add_argument("--threads", type=int, metavar="N", help="of torch on the CPU (default: its own choice)")
    _add_network(p.add_argument_group("network and loss"))
    _add_training(p.add_argument_group("training"))
    _add_input(p.add_argument_group("the network's input"))
    _add_splits(p.add_argument_group("splits, for a cohort without train_data, val_data and test_data"))


def _add_network(p: Any) -> None:
    p.add_argument("--backbone", metavar="NAME", help="see --list-backbones")
    p.add_argument("--width", type=int, metavar="N", help="channels after the stem of our ResNets (64: the original)")
    p.add_argument("--texture", action="store_true", default=None, help="the stem also sees how uneven the bone is")
    p.add_argument("--head", metavar="NAME", help="classes, corn, heteroscedastic or joint")
    p.add_argument("--loss", metavar="NAME", help="ce, balce, balce_paper, ldam_drw, class_balanced or focal")
    p.add_argument("--tau1", type=float, metavar="X", help="of the loss balce")
    p.add_argument("--targets", metavar="NAME", help="class, or truth-posterior (simulated cohorts: P(class | image))")
    p.add_argument("--pretrained", metavar="FILE", help="2D weights by timm's names to start from; nothing is fetched")


def _add_training(p: Any) -> None:
    p.add_argument("--sampling", metavar="NAME", help="natural, resample or balaug")
    p.add_argument("--augmentation", metavar="NAME", help="none, shift (and mirror) or full (and turn, scale, noise)")
    p.add_argument("--optimiser", metavar="NAME", help="adamw, sam or schedule_free")
    p.add_argument("--lr", dest="learning_rate", type=float, metavar="X", help="learning rate")
    p.add_argument("--weight-decay", type=float, metavar="X")
    p.add_argument("--warm-up", type=int, metavar="N", help="steps of rising learning rate")
    p.add_argument("--epochs", type=int, metavar="N")
    p.add_argument("--batch-size", type=int, metavar="N", help="patients of one step, over all processes")
    p.add_argument("--accumulate", type=int, metavar="N", help="compute a batch in N parts, to save memory")
    p.add_argument("--ema", dest="ema_decay", type=float, metavar="X", help="keep a running mean of the weights: 0.999")
    p.add_argument("--amp", metavar="NAME", help="number format: auto, off, bf16 or fp16")
    p.add_argument("--patience", type=int, metavar="N", help="end after N epochs without gain on validation; 0: never")
    p.add_argument("--select", metavar="NAME", help="the epoch that is kept: likelihood, accuracy or last")
    p.add_argument("--seed", type=int, metavar="N")


def _add_input(p: Any) -> None:
    p.add_argument("--size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels to the left, posterior, superior")
    p.add_argument("--spacing", type=float, metavar="MM")
    p.add_argument("--window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="HU that map to 0 and 1")
    p.add_argument("--windows", action="store_true", default=None, help="brain, soft tissue and bone as three channels")
    p.add_argument("--channels", type=int, choices=(1, 3), help="3: grey three times, as the authors have it")
    p.add_argument("--whole", action="store_true", default=None, help="do not mask what is outside L1")
    p.add_argument("--reference-kvp", type=float, metavar="KVP", help="bring all CTs to this tube voltage")


def _add_splits(p: Any) -> None:
    p.add_argument("--validation", type=float, metavar="N", help="CTs a class, or a share below 1 (default 13)")
    p.add_argument("--test", type=float, metavar="N", help="CTs a class, or a share below 1 (default 13)")
    p.add_argument("--split-seed", type=int, default=0, metavar="N")
    p.add_argument("--scanners", choices=("ignore", "stratify"), default="ignore", help="keep scanners in proportion")
    p.add_argument("--hold-out", action="append", metavar="SCANNER", help="this scanner's CTs are the test set")
    p.add_argument("--folds", type=int, metavar="K", help="cross-validation: K runs in OUT/repeat_R_fold_K")
    p.add_argument("--repeats", type=int, default=1, metavar="R", help="of the cross-validation")
    p.add_argument("--keep-test", action="store_true", help="leave the cohort's own test set out of the folds")


def settings_of(options: argparse.Namespace) -> RunSettings:
    """The preset with what was given instead. Raises UsageError."""
    from medconv.training.runs.run_settings import AUGMENTATIONS, one_of, preset

    base = preset(options.preset)
    changes = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    changes |= {name: True for name in ("texture", "windows") if getattr(options, name)}
    if options.augmentation is not None:
        one_of("augmentation", options.augmentation, AUGMENTATIONS)
        changes["augmentation"] = AUGMENTATIONS[options.augmentation]
    if options.width is None and (fixed := _fixed_width(options)):
        changes["width"] = fixed
    return base.with_changes(**changes, preprocessing=_preprocessing(options, base.preprocessing))


def _fixed_width(options: argparse.Namespace) -> int | None:
    """64, the one width of a network that does not scale or starts from 2D weights, where none was asked for."""
    from medconv.training.parts.backbones import find

    if options.pretrained is None and (options.backbone is None or find(options.backbone).scales):
        return None
    return 64


def _preprocessing(options: argparse.Namespace, base: Preprocessing) -> Preprocessing:
    from medconv.training.parts.sampling import covering_window

    changes: dict[str, Any] = {}
    if options.size is not None:
        changes["size_xyz"] = tuple(options.size)
    if options.spacing is not None:
        changes["spacing_mm"] = options.spacing
    if options.window is not None:
        changes["window_hu"] = tuple(options.window)
    elif options.windows:
        changes["window_hu"] = covering_window()
    if options.channels is not None or options.windows:
        changes["channels"] = options.channels or 1
    if options.whole:
        changes["masked"] = False
    if options.reference_kvp is not None:
        changes["reference_kvp"] = options.reference_kvp
    return replace(base, **changes)


def plan_of(options: argparse.Namespace) -> SplitPlan:
    """How a cohort without splits is split. Raises UsageError."""
    from medconv.training.cohorts.splits import SplitPlan

    given = {name: getattr(options, name) for name in ("validation", "test") if getattr(options, name) is not None}
    return SplitPlan(
        seed=options.split_seed, scanners=options.scanners, hold_out=tuple(options.hold_out or ()), **given
    )
