"""Is the vertebra called L1 really L1? What is in doubt, and which vertebra is measured in the end.

Segmentation networks mix neighbouring vertebrae in one or two of a hundred cases and call the level "only an
estimation" on a partial torso (TotalSegmentator's issues 291 and 465); 6.6 % of people have six lumbar vertebrae
(Apazidis 2011). The check knows no network: it looks at order, spacing, volumes, counts, ribs and sacrum. It never
renames anything: a count that disagrees is a reason to ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from medconv.level_doubts import OF_THE_TARGET, TARGET, find_doubts, flaw_of, landmarks_in_view
from medconv.level_structures import GIVEN, FoundLevel, Spine, find_spine
from medconv.types import (
    BoolArray,
    CTVolume,
    Index3,
    InputRefused,
    L1Mask,
    LevelChoice,
    QualityNote,
    SpineSegmentation,
    UsageError,
)
from medconv.vertebrae import is_vertebra
from medconv.vertebral_body import ORIENTATION_REMEDY

STAND_INS = ("T12", "L2")
# No patient has these; how many vertebrae must be found so that it is the image, not one outline or name.
IMPOSSIBLE_FROM_LEVELS = {"spine_back_to_front": 2, "spine_upside_down": 3}
# Cortical bone has at most some 2100 HU (at 80 kVp); `vertebra_check` judges the body of the one that is measured.
METAL_HU, METAL_ML = 2200.0, 0.3

__all__ = ["FoundLevel", "LevelCheck", "check_levels", "choose"]


@dataclass(frozen=True)
class LevelCheck:
    """What was found and what is in doubt.

    levels: cranial to caudal by name. doubts: without one the level is certain. target: "L1" if it was found.
    flaws: found name → what keeps that vertebra from being measured, as a sentence to follow its name. serving: the
    found names of all others without metal, for a stand-in.
    doubtful: the found names that a doubt concerns. statement: one line for a person.
    """

    levels: tuple[FoundLevel, ...]
    doubts: tuple[QualityNote, ...]
    target: str | None
    flaws: Mapping[str, str]
    serving: tuple[str, ...]
    doubtful: tuple[str, ...]
    statement: str

    @property
    def is_certain(self) -> bool:
        """True if L1 was found and nothing speaks against it."""
        return self.target is not None and not self.doubts

    @property
    def alternatives(self) -> tuple[str, ...]:
        """Which of T12 and L2 could be measured instead of L1."""
        return tuple(name for name in STAND_INS if name in self.serving)

    def level(self, name: str) -> FoundLevel | None:
        """The level of that name, or None."""
        return next((level for level in self.levels if level.name == name), None)


def check_levels(segmentation: SpineSegmentation, ct: CTVolume | None = None) -> LevelCheck:
    """Judge the names that a segmenter gave.

    ct: the CT that was segmented, to leave vertebrae with metal out of `serving`; None leaves that to the measurement.
    A single vertebra that a person gave by name can't be checked against others: it is what the person says.
    """
    spine = find_spine(segmentation)
    only_named = segmentation.segmenter == GIVEN and len(spine.levels) < 2
    doubts = find_doubts(spine, segmentation.notes, only_named)
    target = TARGET if spine.level(TARGET) else None
    flaws = {v.name: flaw[1] for v in spine.levels if (flaw := flaw_of(v))}
    whole = [v for v in spine.levels if v.name not in flaws]
    return LevelCheck(
        levels=spine.levels,
        doubts=tuple(doubt.note for doubt in doubts),
        target=target,
        flaws=flaws,
        serving=tuple(v.name for v in whole if ct is None or not _has_metal(v, segmentation, ct)),
        doubtful=tuple(v.name for v in spine.levels if any(v.name in doubt.levels for doubt in doubts)),
        statement=_statement(spine, target, [doubt.note for doubt in doubts], only_named),
    )


def choose(
    segmentation: SpineSegmentation,
    check: LevelCheck,
    *,
    take: str = "",
    used_as: str = TARGET,
    confirmed: bool = False,
    decided_by: str = "",
) -> tuple[L1Mask, LevelChoice]:
    """The mask of the vertebra that is measured, and the record of that choice.

    take: the segmenter's name of that vertebra, "" for the one it calls `used_as`. used_as: "L1", or "T12" or "L2" as a
    stand-in. confirmed: a person has looked and agrees. decided_by: as in `LevelChoice`; "" for "person" if confirmed
    or relabelled, else "segmenter". Doubts refuse only what the segmenter alone decided: whoever gave a vertebra by
    name or number has said which one it is.
    Raises InputRefused (orientation_impossible; level_in_doubt; absent, cut, in pieces, implausible: l1_… or, for
    another one, vertebra_…) and UsageError (a `used_as` that can't be measured).
    """
    if used_as not in (TARGET, *STAND_INS):
        raise UsageError("level_unknown", f"'{used_as}' can't be measured.", "Choose L1, or T12 or L2 in its place.")
    _refuse_impossible_orientation(check)
    name = take or used_as
    level = check.level(name)
    flaw = ("absent", "was not found.") if level is None or not is_vertebra(name) else flaw_of(level)
    if level is None or flaw is not None:
        code, what = flaw or ("absent", "")
        raise InputRefused(f"{'l1' if name == TARGET else 'vertebra'}_{code}", f"{name} {what}", _remedy(check, name))
    doubts = tuple(d for d in check.doubts if d.code not in OF_THE_TARGET)
    decided_by = decided_by or ("person" if confirmed or name != used_as else "segmenter")
    if doubts and decided_by == "segmenter":
        raise InputRefused(
            "level_in_doubt",
            f"The level is in doubt. {' '.join(d.message for d in doubts)}",
            f"Look at the sagittal view, then confirm that this is {used_as} or say which vertebra is L1.",
        )
    block, start = _cut(segmentation, level)
    source = f"{segmentation.segmenter}: {name}"
    choice = LevelChoice(name, used_as, decided_by, segmentation.segmenter, doubts)
    return L1Mask(block, start, segmentation.ct_geometry, source), choice


def _refuse_impossible_orientation(check: LevelCheck) -> None:
    """One vertebra alone may have a bad outline, and two their names exchanged: that remains a doubt."""
    signs = [d for d in check.doubts if len(check.levels) >= IMPOSSIBLE_FROM_LEVELS.get(d.code, len(check.levels) + 1)]
    if signs:
        raise InputRefused("orientation_impossible", " ".join(d.message for d in signs), ORIENTATION_REMEDY)


def _remedy(check: LevelCheck, name: str) -> str:
    others = [other for other in check.alternatives if other != name]
    if others:
        return f"Measure {' or '.join(others)} instead, named as such, or use a CT that shows all of {name}."
    return f"Use a CT that shows all of {name}, or mend the segmentation."


def _statement(spine: Spine, target: str | None, doubts: list[QualityNote], only_named: bool) -> str:
    if target is None:
        return doubts[0].message if len(doubts) == 1 else "L1 was not found."
    if doubts:
        return f"L1 in doubt: {doubts[0].message}"
    if only_named:
        return "L1, by its name"
    return f"L1, counted from {' and '.join(landmarks_in_view(spine))}"


def _cut(segmentation: SpineSegmentation, level: FoundLevel) -> tuple[BoolArray, Index3]:
    """The largest piece of a vertebra as a tight block, and its first voxel (x, y, z) in the CT."""
    start = np.subtract(level.box_start_xyz, segmentation.start_xyz)
    x, y, z = (slice(int(a), int(a + n)) for a, n in zip(start, level.box_size_xyz, strict=True))
    inside = segmentation.labels_zyx[z, y, x] == segmentation.label_of(level.name)
    components = sitk.ConnectedComponent(sitk.GetImageFromArray(inside.astype(np.uint8)), True)
    piece = sitk.GetArrayFromImage(sitk.RelabelComponent(components, sortByObjectSize=True)) == 1
    held = np.argwhere(piece)
    low, high = held.min(axis=0), held.max(axis=0) + 1
    block = piece[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].copy()
    first = np.add(level.box_start_xyz, low[::-1])
    return block, (int(first[0]), int(first[1]), int(first[2]))


def _has_metal(level: FoundLevel, segmentation: SpineSegmentation, ct: CTVolume) -> bool:
    block, (x, y, z) = _cut(segmentation, level)
    depth, height, width = block.shape
    hu = ct.array_zyx[z : z + depth, y : y + height, x : x + width][block]
    return bool(np.count_nonzero(hu > METAL_HU) * ct.geometry.voxel_volume_ml > METAL_ML)
