"""What a label map's other labels say of the one that was named as L1: which numbering is it, is that label L1 there?

Looked at on a few voxels of the slices that are read anyway, so that `--label` stays as quick as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.types import FloatArray, ImageGeometry, QualityNote, Severity
from medconv.vertebrae import LABEL_MAPS, LUMBAR, ORDER

LOOKED_AT_EVERY_MM = 6.0  # no vertebra is thinner than that along any axis
JUDGED = ORDER[ORDER.index("T10") :]
LEAST_LABELS = 2
LEAST_VOXELS = 4
# Of all structures, also those that tell nothing of a level (TotalSegmentator: 116 sternum, 117 costal cartilages).
HIGHEST = {"totalsegmentator": 117, "verse": 28}
SPOKEN = {"totalsegmentator": "TotalSegmentator's", "verse": "VerSe's"}


@dataclass
class LabelsSeen:
    """Collects where each label lies while slices pass by."""

    geometry: ImageGeometry
    _thin: list[NDArray[Any]] = field(default_factory=list)

    def passing(self, slices: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """The same slices; shape (y, x)."""
        self._thin = []
        x, y, z = self._stride
        for place, values in enumerate(slices):
            if place % z == 0:
                self._thin.append(values[::y, ::x].copy())
            yield values

    def heights_mm(self) -> dict[int, float]:
        """Label → how far up (superior) its middle lies."""
        labels, found = np.stack(self._thin), {}
        for label in np.unique(labels):
            if label == 0:
                continue
            voxels: FloatArray = np.argwhere(labels == label)[:, ::-1] * np.asarray(self._stride, float)
            if len(voxels) >= LEAST_VOXELS:
                found[int(label)] = float(self.geometry.index_to_lps(voxels.mean(axis=0))[2])
        return found

    @property
    def _stride(self) -> tuple[int, int, int]:
        x, y, z = (max(1, int(LOOKED_AT_EVERY_MM / mm)) for mm in self.geometry.spacing_mm_xyz)
        return x, y, z


def likely_numbering(heights_mm: Mapping[int, float]) -> str:
    """The label map whose vertebrae from T10 down lie one below the other here; "" if none or more than one does."""
    fitting = [name for name in LABEL_MAPS if _fits(heights_mm, name)]
    return fitting[0] if len(fitting) == 1 else ""


def _fits(heights_mm: Mapping[int, float], numbering: str) -> bool:
    numbers = LABEL_MAPS[numbering]
    if heights_mm and max(heights_mm) > HIGHEST[numbering]:
        return False
    found = [(name, heights_mm[numbers[name]]) for name in JUDGED if numbers.get(name) in heights_mm]
    below = all(upper > lower for (_, upper), (_, lower) in pairwise(found))
    return len(found) >= LEAST_LABELS and any(name in LUMBAR for name, _ in found) and below


def named_by_label(label: int | None, seen: LabelsSeen) -> QualityNote:
    """What to say where a person named L1's label, so that its level was not checked. label: None for the only one."""
    said = "The mask's only label" if label is None else f"Label {label}"
    text = f"{said} was taken as L1 because you said so; its neighbours were not looked at."
    heights = seen.heights_mm()
    numbering = likely_numbering(heights) if label is not None else ""
    if not numbering and label is not None and (out_of_line := _out_of_line(label, heights)):
        return QualityNote("label_contradicts_numbering", Severity.WARNING, f"{text} {out_of_line}")
    if not numbering:
        alone = "" if len(heights) > 1 else " The mask holds no others."
        return QualityNote("level_not_checked", Severity.INFO, text + alone)
    own = SPOKEN[numbering]
    called = {number: name for name, number in LABEL_MAPS[numbering].items()}.get(label or 0, "no vertebra")
    if called == "L1":
        told = f"{text} Its labels are numbered like {own}: --label-map {numbering} checks the level."
        return QualityNote("level_not_checked", Severity.INFO, told)
    told = (
        f"Label {label} was taken as L1 because you said so, but the mask's labels are numbered like {own}, where "
        f"{label} is {called} and L1 is {LABEL_MAPS[numbering]['L1']}. --label-map {numbering} checks the level."
    )
    return QualityNote("label_contradicts_numbering", Severity.WARNING, told)


def _out_of_line(label: int, heights_mm: Mapping[int, float]) -> str:
    """A sentence if all labels but this one are numbered like a known map's; "" otherwise."""
    numbering = likely_numbering({other: mm for other, mm in heights_mm.items() if other != label})
    if not numbering or label not in heights_mm or label not in LABEL_MAPS[numbering].values():
        return ""
    return f"The others are numbered like {SPOKEN[numbering]}, but {label} does not lie where that number belongs."
