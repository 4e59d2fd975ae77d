"""Vertebrae whose place, size or outline does not fit their neighbours: a name too many, too few, or on two of them.

Figures without a source are starting values, set so that the real sample CT and the simulated spines give no false
alarm. Only levels from T11 downwards are judged: what is amiss higher up does not move the count to L1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medconv.level_structures import FoundLevel, Spine
from medconv.types import QualityNote, Severity
from medconv.vertebrae import ORDER

JUDGED = ORDER[ORDER.index("T11") :]
# Distance between the centres of neighbouring bodies, relative to L1–L2: the means of the simulated spines, which are
# made of typical body heights and discs; the real sample CT (L1 to S1) differs by at most 0.05 from them.
RELATIVE_SPACING = {"T12": 0.83, "L1": 0.91, "L2": 1.0, "L3": 1.04, "L4": 1.06, "L5": 1.04, "L6": 1.0, "S1": 1.0}
# A vertebra that lost half its height shortens the two distances beside it by a fifth; a missing level doubles one,
# and two labels in one vertebra halve it.
SPACING_RATIO = (0.72, 1.35)
SPACING_RATIO_OF_S1 = (0.55, np.inf)  # segmenters differ in how much they call S1; room above it is judged apart
SPACING_MM = (18.0, 50.0)  # typical 25 to 45 mm from T11 to L5
# A neighbour's volume is within 25 % in the real CT and the simulated spines; a label on two vertebrae doubles it.
VOLUME_RATIO = (0.6, 1.5)
# Neighbours touch at their facets, in at most 190 mm² along one axis; a cut through a body has about 1100 mm².
CONTACT_MM2 = 450.0
SPREAD_MM, SPREAD_SHARE = 15.0, 0.1  # a second piece that far up or down the spine belongs to another vertebra


@dataclass(frozen=True)
class Doubt:
    """One reason to doubt, and the vertebrae that it concerns (by the segmenter's names)."""

    note: QualityNote
    levels: tuple[str, ...]


def find_outliers(spine: Spine) -> list[Doubt]:
    """All doubts about single vertebrae and neighbouring pairs."""
    return [*_spacing(spine), *_volumes(spine), *_spread(spine), *_contacts(spine)]


def doubt(code: str, message: str, *levels: str) -> Doubt:
    """A doubt about these levels."""
    return Doubt(QualityNote(code, Severity.WARNING, message), levels)


def judged(spine: Spine, whole: bool = True) -> list[FoundLevel]:
    """The vertebrae from T11 downwards; `whole` leaves out those that the CT's border cuts."""
    return [v for v in spine.levels if v.name in JUDGED and not (whole and v.touches_border)]


def _steps(spine: Spine) -> list[tuple[FoundLevel, FoundLevel]]:
    """Neighbours by name, with nothing between them, of the whole vertebrae."""
    sequence = [n for n in JUDGED if n in spine.names or n not in ("T13", "L6")]
    whole = {v.name: v for v in judged(spine)}
    return [(whole[a], whole[b]) for a, b in pairwise(sequence) if a in whole and b in whole]


def usual_step_mm(spine: Spine) -> float:
    """The spine's own L1–L2 distance in mm, by the median of all its steps; 34 mm where there are none."""
    own = [float(np.linalg.norm(a.body - b.body)) / RELATIVE_SPACING[b.name] for a, b in _typical_steps(spine)]
    return float(np.median(own)) if own else 34.0


def _typical_steps(spine: Spine) -> list[tuple[FoundLevel, FoundLevel]]:
    return [(a, b) for a, b in _steps(spine) if b.name in RELATIVE_SPACING]


def _spacing(spine: Spine) -> Iterator[Doubt]:
    scale = usual_step_mm(spine)
    for upper, lower in _typical_steps(spine):
        apart = float(np.linalg.norm(upper.body - lower.body))
        expected = scale * RELATIVE_SPACING[lower.name]
        low, high = SPACING_RATIO_OF_S1 if lower.name == "S1" else SPACING_RATIO
        shortest, longest = (0.0, np.inf) if lower.name == "S1" else SPACING_MM
        if not (low * expected <= apart <= high * expected and shortest <= apart <= longest):
            text = f"{upper.name} and {lower.name} are {apart:.0f} mm apart, expected about {expected:.0f} mm: " + (
                "two names on one vertebra?" if apart < expected else "one left out between them?"
            )
            yield doubt("level_spacing", text, upper.name, lower.name)


def _volumes(spine: Spine) -> Iterator[Doubt]:
    whole = [v for v in spine.levels if not v.touches_border and v.name != "S1"]
    for place, level in enumerate(whole):
        near = [v.volume_ml for v in whole[max(0, place - 2) : place + 3] if v is not level]
        if level.name not in JUDGED or not near:
            continue
        usual = float(np.median(near))
        low, high = VOLUME_RATIO
        if not low * usual <= level.volume_ml <= high * usual:
            text = f"{level.name} has {level.volume_ml:.0f} ml, its neighbours about {usual:.0f} ml: " + (
                "part of it under another name?" if level.volume_ml < usual else "two vertebrae under one name?"
            )
            yield doubt("level_volume", text, level.name)


def _spread(spine: Spine) -> Iterator[Doubt]:
    for level in judged(spine, whole=False):
        if level.pieces > 1 and level.apart > SPREAD_SHARE and level.apart_mm > SPREAD_MM and level.name != "S1":
            text = (
                f"{level.name} is in {level.pieces} pieces, {level.apart_mm:.0f} mm apart along the spine: one name on "
                "two vertebrae?"
            )
            yield doubt("level_spread", text, level.name)


def _contacts(spine: Spine) -> Iterator[Doubt]:
    for (upper, lower), area in spine.contacts_mm2.items():
        if area > CONTACT_MM2 and upper in JUDGED and lower in JUDGED and lower != "S1":
            text = (
                f"{upper} and {lower} touch over {area:.0f} mm², expected less than 200 mm²: two names on one "
                "vertebra, or grown together?"
            )
            yield doubt("levels_touch", text, upper, lower)
