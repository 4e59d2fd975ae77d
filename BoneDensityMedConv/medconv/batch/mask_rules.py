"""Which mask belongs to a CT, by its name: in a folder of masks, or beside the CT."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medconv.vertebrae import TOTALSEGMENTATOR

IMAGE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
MASK_ENDINGS = ("_mask", "_seg", "_labels")
ONE_VERTEBRA = "vertebrae_L1"  # TotalSegmentator's file, one structure each, in a folder "segmentations"
STRUCTURES_FOLDER = "segmentations"


@dataclass(frozen=True)
class Mask:
    """A mask file and how to read it."""

    path: str = ""
    label: int | None = None
    label_map: str = ""


@dataclass(frozen=True)
class MaskRule:
    """How masks are found and read.

    folder: where they lie; None looks beside the CT if `beside`. label, label_map: as for predict.
    """

    folder: Path | None = None
    label: int | None = None
    label_map: str = ""
    beside: bool = True

    def mask_of(self, ct: Path, root: Path, series_uid: str = "") -> Mask:
        """The mask of a CT (a file, or the folder of a series) that was found under `root`; empty if there is none."""
        if self.folder is not None:
            found = self._in_folder(ct, root, series_uid)
        else:
            found = _beside(ct) if self.beside else None
        return Mask() if found is None else self.read_as(found)

    def read_as(self, mask: Path) -> Mask:
        """A mask file with the label to take; TotalSegmentator's file of one vertebra has but one."""
        if stem_of(mask.name) == ONE_VERTEBRA:
            return Mask(str(mask))
        return Mask(str(mask), self.label, self.label_map)

    def _in_folder(self, ct: Path, root: Path, series_uid: str) -> Path | None:
        assert self.folder is not None
        folders = dict.fromkeys((self.folder / ct.relative_to(root).parent, self.folder))
        same_name = [folder / ct.name for folder in folders]
        stems = [stem for stem in (stem_of(ct.name), series_uid) if stem]
        same_stem = [folder / f"{stem}{end}" for folder in folders for stem in stems for end in _mask_names()]
        structures = [
            folder / stem / part / f"{ONE_VERTEBRA}{end}"
            for folder in folders
            for stem in stems
            for part in ("", STRUCTURES_FOLDER)
            for end in IMAGE_ENDINGS
        ]
        return _first(ct, [*same_name, *same_stem, *structures])


def rule_for(root: Path, asked: MaskRule) -> MaskRule:
    """The rule for an input: a cohort of 'medconv simulate' says itself where its masks are and what L1's label is."""
    if asked.folder is None and asked.beside and (cohort_masks := _simulated_masks(root)):
        named = asked.label is not None or asked.label_map
        return MaskRule(cohort_masks, asked.label if named else TOTALSEGMENTATOR["L1"], asked.label_map)
    return asked


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS)


def is_mask_name(name: str) -> bool:
    """True for what is named like a mask, or like one of TotalSegmentator's structures."""
    stem = stem_of(name)
    return stem.endswith(MASK_ENDINGS) or stem.startswith("vertebrae_") or stem in ("segmentation", "labels", "mask")


def stem_of(name: str) -> str:
    """The file's name without its ending."""
    ending = next((end for end in IMAGE_ENDINGS if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def _mask_names() -> Iterable[str]:
    return (f"{suffix}{end}" for suffix in ("", *MASK_ENDINGS) for end in IMAGE_ENDINGS)


def _beside(ct: Path) -> Path | None:
    stem = stem_of(ct.name)
    named = [ct.with_name(f"{stem}{suffix}{end}") for suffix in MASK_ENDINGS for end in IMAGE_ENDINGS]
    structures = [ct.parent / STRUCTURES_FOLDER / f"{ONE_VERTEBRA}{end}" for end in IMAGE_ENDINGS]
    return _first(ct, [*named, *(structures if stem == "ct" else ())])


def _first(ct: Path, candidates: Iterable[Path]) -> Path | None:
    return next((path for path in candidates if path != ct and path.is_file()), None)


def _simulated_masks(root: Path) -> Path | None:
    from medconv.simulated_cohort import MASKS, SETTINGS_FILE

    try:
        kind = json.loads((root / SETTINGS_FILE).read_text("utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return root / MASKS if kind == "simulated cohort" else None
