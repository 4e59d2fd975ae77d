"""From the files of a CT and of L1's mask to both in memory, with no more of the CT than an answer needs.

The mask comes first: it says which part of the CT to read. All that is said of the mask's place (it touches the border,
it lies elsewhere) is judged on the whole CT's grid, which the headers give.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from medconv import l1_mask, volume_io
from medconv.ct_source import CTSource
from medconv.label_numbering import LabelsSeen, named_by_label
from medconv.segmenter import EXISTING
from medconv.types import CTVolume, L1Mask, LevelChoice, QualityNote


@dataclass(frozen=True)
class ReadCase:
    """A CT, or the slab of it around the mask, and the mask on the whole CT's grid.

    notes: of reading. level: how the mask's vertebra was named. timing_s: "read_mask" and "read_ct".
    """

    ct: CTVolume
    mask: L1Mask
    notes: tuple[QualityNote, ...]
    level: LevelChoice
    timing_s: dict[str, float]


def read_around_mask(source: CTSource, mask_path: str | Path, label: int | None) -> ReadCase:
    """The mask of one label, and what of the CT an answer on it needs.

    source: of `volume_io.open_ct`. label: as for `l1_mask.from_labels`.
    `pipeline.predict(read.ct, read.mask, …, notes=read.notes, level=read.level)` and `planes.render_planes` then give
    what they would with the whole CT.
    Raises InputRefused (either file can't be read, label absent, mask elsewhere), UsageError (no label, several there).
    """
    started = perf_counter()
    labels = volume_io.open_labels(mask_path)
    seen = LabelsSeen(labels.geometry)
    mask, notes = l1_mask.from_slices(
        lambda: seen.passing(labels.slices()), labels.geometry, label, source.geometry, source="mask file"
    )
    notes.append(named_by_label(label, seen))
    mask_at = perf_counter()
    ct = source.read_around(mask)
    found_as = "the only label" if label is None else f"label {label}"
    level = LevelChoice(found_as, "L1", "label", EXISTING)
    return ReadCase(
        ct, mask, tuple(notes), level, {"read_mask": mask_at - started, "read_ct": perf_counter() - mask_at}
    )
