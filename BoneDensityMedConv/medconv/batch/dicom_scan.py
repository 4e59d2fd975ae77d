"""A DICOM tree as series: every header is read once, by several threads, and remembered in the batch's folder.

The memory is a file of JSON lines, one a folder; a folder whose files have kept their names, sizes and times is not
read again. A series may be spread over folders.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from medconv.batch.folder_walk import FileFacts, stamp_of
from medconv.dicom_series import quiet_warnings

SERIES_UID, MODALITY, SOP_CLASS, IMAGE_TYPE = "0020|000e", "0008|0060", "0008|0016", "0008|0008"
FRAMES = "0028|0008"
# CT, enhanced CT and legacy converted enhanced CT image storage (DICOM PS3.4, B.5).
CT_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "2.1", "2.2"))
CT = "ct"
OTHER_MODALITY, LOCALIZER, CAPTURE = "of another modality", "localizers", "secondary captures or reports"
UNREADABLE, TOO_FEW = "DICOM files without an image", "with too few slices"
MINIMUM_SLICES = 12  # an L1 of 25 mm and something around it, at 3 mm
NO_DICOM = (
    ".json", ".txt", ".csv", ".tsv", ".xlsx", ".xls", ".docx", ".png", ".jpg", ".jpeg", ".svg", ".html", ".pdf", ".xml",
    ".zip", ".gz", ".md", ".py", ".npz", ".npy", ".log", ".raw", ".yml", ".yaml", ".exe", ".inf", ".bat", ".js", ".css",
    ".nii", ".nrrd", ".mha", ".mhd",
)  # fmt: skip
FOLDERS_AT_ONCE = 256


@dataclass(frozen=True)
class Part:
    """The files of one series and kind in one folder, each with size and time. frames: of a file with many."""

    folder: str
    uid: str
    kind: str
    files: tuple[FileFacts, ...]
    frames: int = 1

    def to_json(self) -> dict[str, Any]:
        files = [[f.name, f.size, f.changed_ns] for f in self.files]
        return {"uid": self.uid, "kind": self.kind, "files": files, "frames": self.frames}


@dataclass
class DicomScan:
    """The series of all folders that were given to `scan`.

    skipped: series and files that are no case, by reason. others: files that are no DICOM, by the ending of their
    names. read, remembered: folders.
    """

    memory: Path
    threads: int
    skipped: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    read: int = 0
    remembered: int = 0

    def scan(
        self, folders: Iterable[tuple[Path, list[FileFacts]]], say: Callable[[int], None] = lambda folders: None
    ) -> None:
        """Read the headers of every file that may be DICOM. say: how many folders are done. Raises OSError."""
        self._places: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        self.memory.parent.mkdir(parents=True, exist_ok=True)
        self.memory.touch()
        known = self._known()
        with self.memory.open("ab") as stream, ThreadPoolExecutor(self.threads) as pool, quiet_warnings():
            walk = ((folder, self._candidates(files)) for folder, files in folders)
            with_candidates = (some for some in walk if some[1])
            while some := list(islice(with_candidates, FOLDERS_AT_ONCE)):
                stamps = [stamp_of(files, str(folder)) for folder, files in some]
                new = [(stamp, place) for stamp, place in zip(stamps, some, strict=True) if stamp not in known]
                for (stamp, (folder, _)), found in zip(new, pool.map(_read, new), strict=True):
                    known[stamp] = stream.tell()
                    stream.write(_line(stamp, folder, *found))
                stream.flush()
                self.read, self.remembered = self.read + len(new), self.remembered + len(some) - len(new)
                for stamp, (_, files) in zip(stamps, some, strict=True):
                    self._place(known[stamp], files)
                say(self.read + self.remembered)

    def series(self) -> Iterator[tuple[str, list[Part]]]:
        """CT series with enough slices: UID ("" if there is none) and parts. Counts the others into `skipped`."""
        with self.memory.open("rb") as stream:
            for (uid, kind), places in self._places.items():
                parts = [_part(stream, offset, index) for offset, index in places]
                slices = sum(len(part.files) * part.frames for part in parts)
                if kind != CT:
                    self.skipped[kind] += 1
                elif slices < MINIMUM_SLICES:
                    self.skipped[TOO_FEW] += 1
                else:
                    yield uid.partition("\0")[0], parts

    def _known(self) -> dict[str, int]:
        """Stamp → where its line stands. A torn last line is cut off."""
        known: dict[str, int] = {}
        offset = 0
        with self.memory.open("rb+") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    known[json.loads(line)["stamp"]] = offset
                offset += len(line)
            stream.truncate(offset)
        return known

    def _candidates(self, files: Sequence[FileFacts]) -> list[FileFacts]:
        """What may be DICOM; the others are counted."""
        self.others.update(
            _ending(file) for file in files if not may_be_dicom(file) and file.name.upper() != "DICOMDIR"
        )
        return [file for file in files if may_be_dicom(file)]

    def _place(self, offset: int, files: Sequence[FileFacts]) -> None:
        with self.memory.open("rb") as stream:
            stream.seek(offset)
            line = json.loads(stream.readline())
        if line["unreadable"]:
            self.skipped[UNREADABLE] += line["unreadable"]
        else:
            dicom = {name for part in line["parts"] for name, *_ in part["files"]}
            self.others.update(_ending(file) for file in files if file.name not in dicom)
        for index, part in enumerate(line["parts"]):
            # Without a UID, what lies in one folder belongs together.
            uid = part["uid"] or f"\0{line['folder']}"
            self._places[uid, part["kind"]].append((offset, index))


def may_be_dicom(file: FileFacts) -> bool:
    """By its name; what is in it is looked at later."""
    if not file.is_plain or file.name.upper() == "DICOMDIR" or file.size < 132:
        return False
    return not file.name.lower().endswith(NO_DICOM)


def _ending(file: FileFacts) -> str:
    return Path(file.name).suffix.lower()


def read_folder(folder: Path, files: list[FileFacts]) -> tuple[list[Part], int]:
    """The parts of series in a folder, and how many DICOM files could not be read as an image."""
    found: dict[tuple[str, str, int], list[FileFacts]] = defaultdict(list)
    unreadable = 0
    for file in files:
        path = folder / file.name
        if not _is_dicom(path):
            continue
        try:
            tags = _read_tags(path)
        except (RuntimeError, UnicodeEncodeError):
            unreadable += 1
            continue
        frames = int(tags[FRAMES]) if tags[FRAMES].isdigit() else 1
        found[tags[SERIES_UID], _kind(tags), frames].append(file)
    parts = [Part(str(folder), uid, kind, tuple(some), frames) for (uid, kind, frames), some in found.items()]
    return parts, unreadable


def _read(new: tuple[str, tuple[Path, list[FileFacts]]]) -> tuple[list[Part], int]:
    return read_folder(*new[1])


def _line(stamp: str, folder: Path, parts: Sequence[Part], unreadable: int) -> bytes:
    told = {"stamp": stamp, "folder": str(folder), "unreadable": unreadable, "parts": [p.to_json() for p in parts]}
    return json.dumps(told).encode("ascii") + b"\n"


def _kind(tags: dict[str, str]) -> str:
    if tags[MODALITY] not in ("CT", ""):
        return OTHER_MODALITY
    if "LOCALIZER" in tags[IMAGE_TYPE].upper():
        return LOCALIZER
    is_ct = tags[SOP_CLASS] in CT_CLASSES or (not tags[SOP_CLASS] and tags[MODALITY] == "CT")
    return CT if is_ct else CAPTURE


def _is_dicom(path: Path) -> bool:
    """The letters behind the preamble (PS3.10, 7.1), or an ending that says so: old files have no preamble."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".ima", ".dicom")
    except OSError:
        return False


def _read_tags(path: Path) -> dict[str, str]:
    str(path).encode("utf-8")  # ITK ends the whole process on a name that is none
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    keys = (SERIES_UID, MODALITY, SOP_CLASS, IMAGE_TYPE, FRAMES)
    return {key: reader.GetMetaData(key).strip(" \0") if reader.HasMetaDataKey(key) else "" for key in keys}


def _part(stream: Any, offset: int, index: int) -> Part:
    stream.seek(offset)
    line = json.loads(stream.readline())
    told = line["parts"][index]
    files = tuple(FileFacts(name, size, changed) for name, size, changed in told["files"])
    return Part(line["folder"], told["uid"], told["kind"], files, told["frames"])
