"""Weights out of a zip file or a folder that a person gives: only what is expected, and nothing beside its place.

Expected, at any depth: `<data set>/<trainer>__nnUNetPlans__3d_fullres/{dataset.json, plans.json, fold_0/…}`, as in the
zip files of TotalSegmentator's releases and in its weights folder.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from typing import IO

from medconv.types import InputRefused

MAXIMUM_BYTES = 4 * 2**30  # the two networks together have well under 1 GB
CHUNK_BYTES = 2**20


class _Copy:
    """Copies streams, tells the fraction done, and stops at `MAXIMUM_BYTES`: a zip file's directory may lie."""

    def __init__(self, total_bytes: int, tell: Callable[[float], None]) -> None:
        self._total, self._done, self._tell = total_bytes, 0, tell

    def __call__(self, source: IO[bytes], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as stream:
            while chunk := source.read(CHUNK_BYTES):
                self._done += len(chunk)
                if self._done > MAXIMUM_BYTES:
                    raise _too_large()
                stream.write(chunk)
                self._tell(min(self._done / max(self._total, 1), 1.0))


def unpack(source: Path, wanted: Collection[str], place: Path, tell: Callable[[float], None]) -> tuple[str, ...]:
    """Copy the wanted data sets' folders from a zip file or folder to `place`; the names of those found.

    tell: called with the fraction done, 0 to 1. Raises InputRefused if there is none, or the file is damaged, too
    large or holds paths that lead out of their place.
    """
    if source.is_dir():
        return _from_folder(source, wanted, place, tell)
    if not source.is_file():
        raise InputRefused("weights_file_missing", "There is no such file or folder.", "Check the path.", str(source))
    try:
        with zipfile.ZipFile(source) as archive:
            return _from_zip(archive, wanted, place, tell)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError: encrypted; NotImplementedError: a compression that Python does not know.
        raise InputRefused(
            "weights_file_damaged",
            f"The file can't be unpacked: it is no zip file, damaged, cut off or encrypted ({error}).",
            _expectation(wanted),
            source.name,
        ) from error


def _from_zip(
    archive: zipfile.ZipFile, wanted: Collection[str], place: Path, tell: Callable[[float], None]
) -> tuple[str, ...]:
    members = {}
    for info in archive.infolist():
        inside = _inside(info.filename, wanted)
        if inside is not None and not info.is_dir():
            if stat.S_ISLNK(info.external_attr >> 16):
                raise _unsafe(info.filename)
            members[inside] = info
    if not members:
        raise _nothing_found(sorted({PurePosixPath(name).parts[0] for name in archive.namelist() if name}), wanted)
    total = sum(info.file_size for info in members.values())
    if total > MAXIMUM_BYTES:
        raise _too_large()
    copy = _Copy(total, tell)
    for inside, info in members.items():
        with archive.open(info) as stream:
            copy(stream, place / inside)
    return tuple(name for name in wanted if any(inside.parts[0] == name for inside in members))


def _from_folder(source: Path, wanted: Collection[str], place: Path, tell: Callable[[float], None]) -> tuple[str, ...]:
    """The folder may be a data set itself, hold data sets, or be a home of TotalSegmentator."""
    source = source.absolute()
    places = (source.parent, source, source / "nnunet" / "results") if source.name in wanted else (
        source, source / "nnunet" / "results"
    )  # fmt: skip
    found = {name: parent / name for name in wanted for parent in reversed(places) if (parent / name).is_dir()}
    if source.name in wanted:
        found = {source.name: source}
    if not found:
        raise _nothing_found(sorted(path.name for path in source.iterdir() if path.is_dir()), wanted)
    files = {name: [p for p in folder.rglob("*") if p.is_file()] for name, folder in found.items()}
    total = sum(path.stat().st_size for paths in files.values() for path in paths)
    copy = _Copy(total, tell)
    for name, paths in files.items():
        for path in paths:
            with path.open("rb") as stream:
                copy(stream, place / name / path.relative_to(found[name]))
    return tuple(found)


def _inside(member: str, wanted: Collection[str]) -> PurePosixPath | None:
    """The member's path from its data set's folder on; None if it is in none. Raises InputRefused if it leads out."""
    path = PurePosixPath(member)
    at = next((place for place, part in enumerate(path.parts) if part in wanted), None)
    if at is None:
        return None
    if path.is_absolute() or any(part == ".." or "\\" in part or ":" in part for part in path.parts):
        raise _unsafe(member)
    return PurePosixPath(*path.parts[at:])


def _expectation(wanted: Collection[str]) -> str:
    names = " or ".join(f"{name}.zip" for name in wanted)
    return f"Expected {names} from TotalSegmentator's release v2.0.0-weights, or a folder of that name."


def _nothing_found(there: list[str], wanted: Collection[str]) -> InputRefused:
    listed = ", ".join(there[:5]) or "nothing"
    return InputRefused(
        "weights_not_found_in_file",
        f"There are none of the weights used here in it; found: {listed}.",
        _expectation(wanted),
    )


def _unsafe(member: str) -> InputRefused:
    return InputRefused(
        "weights_file_unsafe",
        "The file holds a path that leads out of its folder, or a link: it is not a file of the release.",
        "Get the file again from its original place.",
        member,
    )


def _too_large() -> InputRefused:
    return InputRefused(
        "weights_file_too_large",
        f"The content is larger than {MAXIMUM_BYTES // 2**30} GB, which no file of the release is.",
        "Get the file again from its original place.",
    )
