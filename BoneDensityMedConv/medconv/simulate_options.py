"""The arguments of `medconv simulate`, and what they mean as settings."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from medconv.mineral import HU_PER_MG_HA
from medconv.simulate.cohort import DEFAULT_SHARES, CohortModel
from medconv.simulate.cohort_plan import PAPER_CLASSES, PAPER_PATIENTS, PAPER_PER_CLASS, SPLITS, CohortPlan
from medconv.simulate.findings import FINDINGS, USUAL_SHARES
from medconv.simulate.person import PersonSettings
from medconv.simulate.physics import CONTRAST_OFFSET_HU, KERNELS
from medconv.simulate.template import template_files
from medconv.simulate.trunk import trunk_box
from medconv.simulated_cohort import ImageSettings
from medconv.types import TScoreClass, UsageError

ANY = "any"
SLICES_MM = (0.6, 5.0)
DOSES = (0.05, 20.0)
T11_TO_L3_MM, T11_TO_SACRUM_MM = (-95.0, 85.0), (-265.0, 85.0)
ONLY_CORE: Mapping[str, float] = {name: float(name == "density") for name in DEFAULT_SHARES}


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "out", type=Path, nargs="?", metavar="OUT", help="folder of the cohort; an unfinished one is finished"
    )
    who = p.add_argument_group("who")
    who.add_argument(
        "--patients", type=int, metavar="N",
        help=f"any number, classes as frequent as in the population (default: the paper's {PAPER_PATIENTS}, "
        f"{'/'.join(map(str, PAPER_CLASSES.values()))} with osteoporosis, osteopenia, normal)",
    )  # fmt: skip
    who.add_argument("--classes", metavar="N,N,N", help="exactly so many with osteoporosis, osteopenia, normal")
    who.add_argument("--val-per-class", type=int, default=PAPER_PER_CLASS, metavar="N", help="default 13")
    who.add_argument("--test-per-class", type=int, default=PAPER_PER_CLASS, metavar="N", help="default 13")
    who.add_argument("--only-split", choices=SPLITS, help="everybody belongs there (a test set of its own)")
    who.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other patients (default 0)")
    who.add_argument(
        "--correlation", type=float, default=CohortModel().signal_correlation, metavar="R",
        help="of T-score and what the image shows: 0.77 (default, needed for the paper's accuracy), "
        "0.63 (multicentre HU study), 0.35 (Austin), or any from 0 to 1",
    )  # fmt: skip
    who.add_argument("--only-core", action="store_true", help="only the trabecular core of the bodies carries signal")
    who.add_argument(
        "--findings", default="", metavar="NAME[=SHARE],…", help=f"{', '.join(FINDINGS)}, or all; shares from 0 to 1"
    )
    who.add_argument("--templates", type=Path, metavar="DIR", help="label maps of real L1 in place of the drawn ones")
    how = p.add_argument_group("how they are scanned (default: a mixed practice)")
    how.add_argument("--kvp", metavar="KV|any", default=ANY, help="80 to 140")
    how.add_argument("--slice-thickness", metavar="MM|any", default=ANY, help="0.6 to 5")
    how.add_argument("--kernel", choices=(*KERNELS, ANY), default=ANY)
    how.add_argument("--phase", choices=(*CONTRAST_OFFSET_HU, ANY), default=ANY)
    how.add_argument("--dose", metavar="X|any", default=ANY, help="tube dose relative to the usual one")
    what = p.add_argument_group("what is written")
    what.add_argument("--crops-only", action="store_true", help="only L1's neighbourhood, many times faster")
    what.add_argument("--with-sacrum", action="store_true", help="CTs from T11 to the sacrum instead of to L3")
    what.add_argument(
        "--field-of-view",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="from LOW to HIGH mm above L1's centre",
    )
    what.add_argument("--perfect-masks", action="store_true", help="masks without a segmenter's errors")
    beside = p.add_argument_group("instead of a cohort: a real CT beside simulated ones")
    beside.add_argument(
        "--compare",
        type=Path,
        metavar="CT",
        help="L1's HU, edge and texture; takes --kernel, --dose, --findings, --templates",
    )
    beside.add_argument("--mask", type=Path, metavar="MASK", help="label map that holds its L1")
    beside.add_argument("--label", type=int, metavar="N", help="L1's label: 31 TotalSegmentator, 20 VerSe/CTSpine1K")
    beside.add_argument("--out", type=Path, metavar="DIR", dest="result", help="folder for picture and numbers")
    p.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")


def plan_of(options: argparse.Namespace) -> CohortPlan:
    """Raises UsageError for a number that has no meaning."""
    shares = dict(ONLY_CORE if options.only_core else DEFAULT_SHARES)
    _within("--correlation", options.correlation, 0.0, 1.0)
    for name in ("val_per_class", "test_per_class", "seed"):
        _within(f"--{name.replace('_', '-')}", getattr(options, name), 0, 10**9)
    persons = PersonSettings(
        seed=options.seed,
        model=CohortModel(signal_correlation=options.correlation, shares=shares),
        kvp=_number("--kvp", options.kvp, min(HU_PER_MG_HA), max(HU_PER_MG_HA)),
        slice_thickness_mm=_number("--slice-thickness", options.slice_thickness, *SLICES_MM),
        kernel=None if options.kernel == ANY else options.kernel,
        phase=None if options.phase == ANY else options.phase,
        dose=_number("--dose", options.dose, *DOSES),
        finding_shares=finding_shares(options.findings),
        only_core=options.only_core,
        templates=() if options.templates is None else tuple(map(str, template_files(options.templates))),
    )
    classes = _classes(options)
    if options.only_split is None and classes is None:
        _within("--patients", options.patients, 1, 10**6)
    return CohortPlan(
        persons,
        patients=sum(classes.values()) if classes else options.patients,
        classes=classes,
        validation_per_class=options.val_per_class,
        test_per_class=options.test_per_class,
        only_split=options.only_split,
    )


def image_settings_of(options: argparse.Namespace) -> ImageSettings:
    """Raises UsageError for a field of view that is not drawn."""
    shown = T11_TO_SACRUM_MM if options.with_sacrum else T11_TO_L3_MM
    if options.field_of_view:
        shown = (options.field_of_view[0], options.field_of_view[1])
    try:
        trunk_box(shown)
    except ValueError as error:
        raise UsageError("field_of_view", f"The field of view is not drawn: {error}.", "Correct it.") from error
    return ImageSettings(options.crops_only, options.perfect_masks, shown)


def finding_shares(text: str) -> dict[str, float]:
    """`fracture,cement=0.1` as shares by name. Raises UsageError."""
    if text.strip() == "all":
        return dict(USUAL_SHARES)
    shares = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, share = part.partition("=")
        if name not in FINDINGS:
            raise UsageError("unknown_finding", f"'{name}' is no finding.", f"Known: {', '.join(FINDINGS)}.")
        shares[name] = USUAL_SHARES[name] if not share else _number(f"--findings {name}", share, 0.0, 1.0) or 0.0
    return shares


def _classes(options: argparse.Namespace) -> Mapping[TScoreClass, int] | None:
    if options.classes and options.patients:
        raise UsageError("two_sizes", "Both --patients and --classes were given.", "Give one of them.")
    if not options.classes:
        return PAPER_CLASSES if options.patients is None else None
    try:
        counts = [int(count) for count in options.classes.split(",")]
    except ValueError:
        counts = []
    if len(counts) != len(TScoreClass) or min(counts) < 0 or sum(counts) < 1:
        raise UsageError(
            "classes_unreadable",
            f"--classes needs three whole numbers, got '{options.classes}'.",
            "Give patients with osteoporosis, osteopenia, normal, for instance 46,136,207.",
        )
    return dict(zip(PAPER_CLASSES, counts, strict=True))


def _number(name: str, text: str, low: float, high: float) -> float | None:
    if text == ANY:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    _within(name, value, low, high)
    return value


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError("out_of_range", f"{name} must lie in {low:g}..{high:g}, got {value:g}.", "Correct it.")
