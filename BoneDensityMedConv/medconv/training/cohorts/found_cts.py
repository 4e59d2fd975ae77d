"""Which CTs lie in a cohort folder: files, and DICOM folders wherever they stand in a tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from medconv.training.cohorts.cases import SPLIT_FOLDERS
from medconv.training.cohorts.label_values import CT_ENDINGS, without_ending

MASKS = "masks"
LOOKED_AT = 200  # entries of a folder without label, to see whether it holds DICOM


@dataclass(frozen=True)
class FoundCT:
    """A CT in the folder: its name without ending (an id, if the sheet has it), and the split of its folder."""

    name: str
    path: Path
    split: str | None


def find_cts(folder: Path, ids: frozenset[str]) -> list[FoundCT]:
    """Every CT file, and every DICOM folder, in the split folders if there are any, else in the folder itself.

    ids: a folder of that name is a case, wherever it lies in a tree of DICOM folders.
    """
    places: list[tuple[Path, str | None]] = [
        (folder / name, split) for split, name in SPLIT_FOLDERS.items() if (folder / name).is_dir()
    ]
    found = []
    for place, split in places or [(folder, None)]:
        entries = sorted(entry for entry in place.iterdir() if not entry.name.startswith("."))
        files = [entry for entry in entries if entry.is_file() and entry.name.lower().endswith(CT_ENDINGS)]
        found += [FoundCT(without_ending(file.name), file, split) for file in files]
        for entry in entries:
            if entry.is_dir() and entry.name != MASKS:
                found += [FoundCT(name, path, split) for name, path in _dicom_folders(entry, entry.name, ids)]
    return found


def _dicom_folders(folder: Path, name: str, ids: frozenset[str]) -> Iterator[tuple[str, Path]]:
    """The cases at or below a folder; if none of its folders has a label, the folder itself, by its name."""
    if folder.name in ids:
        yield folder.name, folder
        return
    children = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    below = [found for child in children for found in _dicom_folders(child, f"{name}/{child.name}", ids)]
    if any(found_name in ids for found_name, _ in below):
        yield from below
    elif any(_is_dicom(entry) for entry in islice(folder.rglob("*"), LOOKED_AT)):
        yield name, folder


def _is_dicom(path: Path) -> bool:
    """True for a file with DICOM's mark; other folders beside the CTs (crops, runs, notes) are nobody's case."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"
