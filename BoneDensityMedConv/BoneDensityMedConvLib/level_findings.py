"""What the level check says of the chosen segmentation, and whose word makes the measured vertebra what it is called.

Where a network found the vertebrae, a doubt stops the analysis until a person has answered. Where a person chose the
segment, that person has said which vertebra it is, and a doubt is a warning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from BoneDensityMedConvLib import inputs, level_choice, scene, segmenter_choice, spine_segments, terminology
from BoneDensityMedConvLib.level_choice import FoundLevel, Levels
from medconv import vertebrae
from medconv.segmenter import EXISTING
from medconv.types import InputRefused, LevelChoice, SpineSegmentation

NEIGHBOURS_NEEDED = 2  # a single segment of a person's own has no neighbours to be checked against
NEXT_STEP = "Check that the CT shows the lumbar spine, or choose a segment of L1."


@dataclass(frozen=True)
class Findings:
    """The chosen segmentation as it is now, what the check says of it, and the levels with the decision so far."""

    spine: SpineSegmentation
    check: Any
    levels: Levels

    def choice(self) -> LevelChoice:
        """Which vertebra is measured, as what, and who says so. Raises InputRefused if it can't serve."""
        from medconv import level_check

        levels = self.levels
        _, choice = level_check.choose(
            self.spine,
            self.check,
            take=levels.target,
            used_as=levels.used_as,
            confirmed=levels.decided or not levels.must_ask,
        )
        return replace(choice, decided_by=_decided_by(levels))


def read(chosen: Any) -> Findings | None:
    """Check the levels of the chosen CT and segmentation; None where there is only one segment that names a vertebra,
    or the chosen one names none. Raises InputRefused."""
    automatic = segmenter_choice.is_automatic(chosen)
    ids = spine_segments.found_structures(chosen.segmentation, chosen.segmentId)
    named = [name for name in ids if vertebrae.is_vertebra(name)]
    chosen_name = next((name for name, segment_id in ids.items() if segment_id == chosen.segmentId), "")
    if not automatic and (len(named) < NEIGHBOURS_NEEDED or chosen_name not in named):
        return None
    from medconv import level_check

    ct = scene.ct_volume(chosen.ct)
    spine = spine_segments.read_spine(chosen.segmentation, ct, chosen.segmentId)
    if spine is None:
        raise InputRefused("no_vertebra_found", "The segmentation holds no vertebra in this CT.", NEXT_STEP)
    check = level_check.check_levels(spine, ct)
    levels = _levels(spine, check, automatic).after(level_choice.kept(chosen))
    if not automatic and levels.target != chosen_name:
        levels = _levels(spine, check, automatic)  # the person has chosen another segment since
    return Findings(spine, check, levels)


def of_single_segment(chosen: Any) -> LevelChoice:
    """The level of a segment without named neighbours: a person chose it, by its name or tag or in spite of them."""
    segment = inputs.segment_of(chosen)
    level = terminology.level_of(segment) if segment is not None else terminology.Level()
    return LevelChoice(level.name or "L1", "L1", "segment" if level.is_l1 else "person", EXISTING)


def _levels(spine: SpineSegmentation, check: Any, automatic: bool) -> Levels:
    found = {name for label, name in spine.names.items() if (spine.labels_zyx == label).any()}
    return Levels(
        segmenter=segmenter_choice.NAMES.get(spine.segmenter, spine.segmenter),
        found=tuple(_found_level(level) for level in check.levels),
        doubts=tuple(check.doubts),
        must_ask=automatic,
        landmarks=tuple(name for name in spine.names.values() if name in found and not vertebrae.is_vertebra(name)),
        serving=tuple(check.serving),
    )


def _found_level(level: Any) -> FoundLevel:
    x, y, z = level.center_lps_mm
    return FoundLevel(level.name, level.volume_ml, (-x, -y, z))


def _decided_by(levels: Levels) -> str:
    if levels.decided:
        return "person"
    return "segmenter" if levels.must_ask else "segment"
