"""What the level check says of the chosen segmentation, and whose word makes the measured vertebra what it is called.

Where a network found the vertebrae, a doubt stops the analysis until a person has answered. Where a person chose the
segment, that person has said which vertebra it is, and a doubt is a warning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from BoneDensityMedConvLib import (
    inputs,
    level_choice,
    scene,
    segmentation_origin,
    segmenter_choice,
    spine_segments,
    terminology,
)
from BoneDensityMedConvLib.level_choice import FoundLevel, Levels
from medconv import level_check, vertebrae
from medconv.level_check import LevelCheck
from medconv.segmenter import EXISTING
from medconv.types import InputRefused, LevelChoice, SpineSegmentation

NEIGHBOURS_NEEDED = 2  # a single segment of a person's own has no neighbours to be checked against
NEXT_STEP = "Check that the CT shows the lumbar spine, or choose a segment of L1."


@dataclass(frozen=True)
class Findings:
    """The chosen segmentation as it is now, what the check says of it, and the levels with the decision so far."""

    spine: SpineSegmentation
    check: LevelCheck
    levels: Levels

    def choice(self) -> LevelChoice:
        """Which vertebra is measured, as what, and who says so.

        Raises InputRefused if the level is in doubt and nobody has answered, or if that vertebra can't be measured.
        """
        levels = self.levels
        by_segment = not levels.must_ask and not levels.decided
        _, choice = level_check.choose(
            self.spine,
            self.check,
            take=levels.target,
            used_as=levels.used_as,
            confirmed=levels.decided,
            decided_by="segment" if by_segment else "",
        )
        return choice


def read(chosen: Any) -> Findings | None:
    """Check the levels of the chosen CT and segmentation; None where there is only one segment that names a vertebra,
    or the chosen one names none. Raises InputRefused."""
    if chosen.ct is None or chosen.segmentation is None:
        raise InputRefused("not_ready", "The CT or the segmentation is no longer there.", "Choose them again.")
    automatic = segmenter_choice.is_automatic(chosen)
    ids = spine_segments.found_structures(chosen.segmentation, chosen.segmentId)
    named = [name for name in ids if vertebrae.is_vertebra(name)]
    chosen_name = next((name for name, segment_id in ids.items() if segment_id == chosen.segmentId), "")
    if not automatic and (len(named) < NEIGHBOURS_NEEDED or chosen_name not in named):
        return None
    ct = scene.ct_volume(chosen.ct)
    spine = spine_segments.read_spine(chosen.segmentation, ct, chosen.segmentId)
    if spine is None:
        raise InputRefused("no_vertebra_found", "The segmentation holds no vertebra in this CT.", NEXT_STEP)
    check = level_check.check_levels(spine, ct)
    fresh = _levels(spine, check, automatic)
    levels = fresh.after(level_choice.kept(chosen))
    if not automatic and levels.target != chosen_name:
        levels = fresh  # the person has chosen another segment since
    return Findings(spine, check, levels)


def of_single_segment(chosen: Any) -> LevelChoice:
    """The level of a segment without named neighbours: a person chose it, by its name or tag or in spite of them."""
    segment = inputs.segment_of(chosen)
    level = terminology.level_of(segment) if segment is not None else terminology.Level()
    return LevelChoice(level.name or "L1", "L1", "segment" if level.is_l1 else "person", EXISTING)


def _levels(spine: SpineSegmentation, check: LevelCheck, automatic: bool) -> Levels:
    present = {name for label, name in spine.names.items() if (spine.labels_zyx == label).any()}
    found = []
    for level in check.levels:
        x, y, z = level.body_center_lps_mm
        found.append(FoundLevel(level.name, level.volume_ml, (-x, -y, z)))
    return Levels(
        segmenter=segmentation_origin.segmenter_name(spine.segmenter),
        found=tuple(found),
        doubts=check.doubts,
        must_ask=automatic,
        landmarks=tuple(name for name in spine.names.values() if name in present and _is_landmark(name)),
        flaws=check.flaws,
        serving=check.serving,
        doubtful=check.doubtful,
        statement=check.statement,
    )


def _is_landmark(name: str) -> bool:
    return name == vertebrae.SACRUM or name.startswith("rib_")
