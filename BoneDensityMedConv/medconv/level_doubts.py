"""What makes the level doubtful. Each function looks at one thing and gives sentences; none decides.

Figures without a source are starting values, set so that the real sample CT and the simulated spines give no false
alarm. What one vertebra's size and place say against it is in `level_outliers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from medconv.level_outliers import SPACING_RATIO, Doubt, doubt, find_outliers, judged, usual_step_mm
from medconv.level_structures import LIVER, FoundLevel, Spine
from medconv.types import QualityNote
from medconv.vertebrae import LAST_RIBS, LUMBAR, ORDER, SACRUM
from medconv.vertebral_body import VOLUME_RANGE_ML

TARGET = "L1"
PASSES_DISAGREE = "level_passes_disagree"  # the note of a segmenter whose two networks name L1 differently
OF_THE_TARGET = frozenset({"l1_absent", "l1_touches_border", "l1_in_pieces", "l1_volume_implausible"})

ROOM_FOR_ONE_MM = 40.0  # from L5's body to the sacrum: some 23 mm; another vertebra would add 35 mm
ROOM_ABOVE_MM = 45.0  # with that much CT above the middle of L1, most of T12 is in view
BACK_TO_FRONT_MM = -3.0  # with its arch, a vertebra's centre lies 8 to 12 mm behind that of its body
LIVER_ML = 50.0


def find_doubts(spine: Spine, notes: tuple[QualityNote, ...], only_named: bool) -> list[Doubt]:
    """All doubts, those about orientation first. notes: the segmenter's own.

    only_named: a single vertebra that a person named; there is nothing to count.
    """
    doubts = [*_orientation(spine)]
    if not only_named:
        order = [*_order(spine)]
        doubts += [*order, *_landmarks(spine), *_ribs(spine)]
        if not order:  # distances between names in disorder mean nothing
            doubts += [*_missing(spine), *_count(spine), *find_outliers(spine)]
        doubts += [doubt(n.code, n.message, TARGET) for n in notes if n.code == PASSES_DISAGREE]
    return [*doubts, *_target(spine, only_named)]


def _orientation(spine: Spine) -> Iterator[Doubt]:
    whole = judged(spine)
    behind = [v.center_lps_mm[1] - v.body_center_lps_mm[1] for v in whole if v.name != "S1"]
    if behind and float(np.median(behind)) < BACK_TO_FRONT_MM:
        yield doubt(
            "spine_back_to_front",
            "The arches of the vertebrae lie in front of their bodies: the image is turned or mirrored.",
        )
    falls = [upper.body[2] > lower.body[2] for upper, lower in pairwise(whole)]
    if falls and not any(falls):
        yield doubt(
            "spine_upside_down",
            f"{whole[-1].name} lies above {whole[0].name}: the image is upside down, or the names are.",
        )
    liver = spine.landmarks.get(LIVER)
    if liver is not None and liver.volumes_ml[0] >= LIVER_ML and spine.levels:
        side = float(np.median([v.body[0] for v in spine.levels]))
        if liver.centers_lps_mm[0][0] > side:
            yield doubt(
                "liver_on_the_left",
                "The liver lies on the patient's left: the image is mirrored, or the organs are (situs inversus).",
            )


def _landmarks(spine: Spine) -> Iterator[Doubt]:
    if not landmarks_in_view(spine) and spine.levels:
        yield doubt(
            "no_landmark",
            "Neither the twelfth rib nor the sacrum was found: nothing in view tells which vertebra is L1.",
            TARGET,
        )


def landmarks_in_view(spine: Spine) -> list[str]:
    """What the levels can be counted from: rib 12 where its vertebra is in view, the sacrum, or the upper neck."""
    found = []
    if any(spine.rib_levels.get(rib) == "T12" for rib in LAST_RIBS):
        found.append("rib 12")
    if SACRUM in spine.landmarks:
        found.append("sacrum")
    elif spine.level("S1"):
        found.append("S1")
    if {"C1", "C2"} & set(spine.names):
        found.append("the upper cervical spine")
    return found


def _missing(spine: Spine) -> Iterator[Doubt]:
    """Names left out between two that were found. L1 left out with room for it is no doubt about the others."""
    found = judged(spine, whole=False)
    scale = usual_step_mm(spine)
    for upper, lower in pairwise(found):
        left_out = _between(upper.name, lower.name)
        if not left_out:
            continue
        apart = float(np.linalg.norm(upper.body - lower.body))
        there = (len(left_out) + SPACING_RATIO[0]) * scale < apart
        names = " and ".join(left_out)
        if there and left_out == [TARGET]:
            continue
        if there or upper.touches_border or lower.touches_border:
            text = f"{names} was not found between {upper.name} and {lower.name}, which are {apart:.0f} mm apart."
        else:
            text = (
                f"{upper.name} and {lower.name} are only {apart:.0f} mm apart, without room for {names}: fewer "
                "vertebrae than usual, or wrong names."
            )
        yield doubt("level_missing", text, upper.name, lower.name)
    l1 = spine.level(TARGET)
    if l1 and "T12" in spine.known and "T12" not in spine.names and spine.top_mm - l1.body[2] > ROOM_ABOVE_MM:
        yield doubt("level_missing", "T12 was not found above L1, though the CT shows where it must be.", TARGET)


def _between(upper: str, lower: str) -> list[str]:
    return [n for n in ORDER[ORDER.index(upper) + 1 : ORDER.index(lower)] if n not in ("T13", "L6")]


def _count(spine: Spine) -> Iterator[Doubt]:
    """Five lumbar vertebrae are expected above the sacrum; 6.6 % of people have six (Apazidis 2011)."""
    lumbar = [n for n in LUMBAR if n in spine.names]
    if "L6" in lumbar:
        yield doubt("lumbar_count", "Six lumbar vertebrae were found (to L6), expected five: which one is L1?", "L6")
    if "T13" in spine.names:
        yield doubt("lumbar_count", "A thirteenth thoracic vertebra was found, expected twelve: which is L1?", "T13")
    if not lumbar or spine.sacrum_below_mm is None or "L6" in lumbar:
        return
    lowest = lumbar[-1]
    if lowest != "L5" and "S1" in spine.names:  # what is missing above S1 is told already
        return
    if spine.sacrum_below_mm > ROOM_FOR_ONE_MM:
        text = (
            f"Between {lowest} and the sacrum are {spine.sacrum_below_mm:.0f} mm, expected about 23 mm: a vertebra was "
            "not found there, or there are six lumbar vertebrae."
        )
        yield doubt("lumbar_count", text, lowest)
    elif lowest != "L5":
        text = f"{lowest} lies directly on the sacrum, expected L5: other than five lumbar vertebrae, or wrong names."
        yield doubt("lumbar_count", text, lowest)


def _ribs(spine: Spine) -> Iterator[Doubt]:
    t12 = spine.level("T12")
    # Without any landmark that is said already.
    looked_for = set(LAST_RIBS) <= spine.known and landmarks_in_view(spine)
    if looked_for and t12 and not t12.touches_border and not set(LAST_RIBS) & set(spine.landmarks):
        yield doubt(
            "t12_without_ribs",
            "No rib was found at T12: the twelfth pair is missing, or the vertebra called T12 is L1.",
            "T12", TARGET,
        )  # fmt: skip
    wrong: dict[str, list[str]] = {}
    fits = any(spine.rib_levels.get(rib) == "T12" for rib in LAST_RIBS)
    for rib, level in spine.rib_levels.items():
        high = fits and rib.endswith("11") and level == "T10"  # its head may reach up over the disc
        if f"T{rib[-2:]}" != level and not high:
            wrong.setdefault(level, []).append(rib)
    for level, ribs in wrong.items():
        numbers = " and ".join(sorted({rib[-2:] for rib in ribs}))
        expected = "no rib" if level in LUMBAR else f"rib {level[1:]}"
        text = f"Rib {numbers} begins at {level}, where {expected} was expected: names wrong by one, or a rib too many."
        yield doubt("rib_at_wrong_level", text, level)


def _order(spine: Spine) -> Iterator[Doubt]:
    whole = judged(spine)
    pairs = [(a, b) for a, b in pairwise(whole) if a.body[2] <= b.body[2]]
    if pairs and len(pairs) < len(whole) - 1:  # all of them: upside down, which is told already
        for upper, lower in pairs:
            text = f"{upper.name} lies below {lower.name}, expected above it."
            yield doubt("levels_out_of_order", text, upper.name, lower.name)


def _target(spine: Spine, only_named: bool) -> Iterator[Doubt]:
    """What keeps L1 itself from being measured."""
    level = spine.level(TARGET)
    if level is None:
        if spine.levels and not only_named:
            found = f"{spine.names[0]} to {spine.names[-1]}" if len(spine.names) > 1 else spine.names[0]
            yield doubt("l1_absent", f"L1 was not found; the CT shows {found}.")
        else:
            yield doubt("l1_absent", "No vertebra was found." if not spine.levels else "L1 was not found.")
        return
    flaw = flaw_of(level)
    if flaw:
        code, what = flaw
        yield doubt(f"l1_{code}", f"{TARGET} {what}", TARGET)


def flaw_of(level: FoundLevel) -> tuple[str, str] | None:
    """What keeps a vertebra from being measured: a code, and what to say of it after its name; None if nothing does."""
    low, high = VOLUME_RANGE_ML
    if level.name == "S1":
        return "not_lumbar", "is a part of the sacrum."
    if level.touches_border:
        return "touches_border", "is cut by the border of the CT."
    if level.pieces > 1:
        return "in_pieces", f"is in {level.pieces} pieces; {level.apart:.0%} of it lies apart."
    if not low <= level.volume_ml <= high:
        return "volume_implausible", f"has {level.volume_ml:.1f} ml; a whole vertebra has {low:.0f} to {high:.0f} ml."
    return None
