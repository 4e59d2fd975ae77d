"""Crops on disk: one file a case while they are made, one memory map a split to train from.

    <cache>/crops_<settings>/settings.json          what decides a crop's content
    <cache>/crops_<settings>/cases/<key>.npz        a crop and its measurements, or why it was refused
    <cache>/crops_<settings>/<split>_<keys>.npy     uint8 (n, C, z, y, x), read as a memory map; .json: one fact a case

A key stands for a case's files (names, sizes, dates) and how they are read. Every file appears whole or not at all, so
that a run that is killed goes on, and two runs may share a cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.config import Preprocessing
from medconv.training.cohorts.cases import LabelledCase
from medconv.training.cohorts.crops import LEVELS

FORMAT = 2  # raise it when crops or measurements would come out differently
STALE_AFTER_S = 3600.0
NAN = float("nan")


@dataclass(frozen=True)
class CaseFacts:
    """What was measured beside a crop. `code` and `message` are empty unless the case was refused.

    fingerprint: of the CT's voxels (`leaks.fingerprint`). Numbers are NaN where unknown. contrast_agent: True if the
    file names one.
    """

    median_hu: float
    kvp: float
    fingerprint: str
    code: str = ""
    message: str = ""
    hu_mean: float = NAN
    hu_sd: float = NAN
    l1_volume_ml: float = NAN
    slice_thickness_mm: float = NAN
    contrast_agent: bool = False


@dataclass(frozen=True)
class CropStore:
    """The crops of one preprocessing in a cache folder."""

    folder: Path

    @staticmethod
    def open(cache: Path, preprocessing: Preprocessing) -> CropStore:
        """Make the folder if it is not there, and clear what a killed run left half-written."""
        settings = json.dumps(
            {"format": FORMAT, "levels": LEVELS, "preprocessing": asdict(preprocessing)}, sort_keys=True
        )
        store = CropStore(cache / f"crops_{_digest(settings)}")
        store.cases.mkdir(parents=True, exist_ok=True)
        if not store.settings_file.exists():
            _write(store.settings_file, lambda path: path.write_text(settings + "\n", "utf-8"))
        for partial in [*store.folder.glob("*.partial*"), *store.cases.glob("*.partial*")]:
            with contextlib.suppress(OSError):
                if time.time() - partial.stat().st_mtime > STALE_AFTER_S:
                    partial.unlink()
        return store

    @property
    def cases(self) -> Path:
        return self.folder / "cases"

    @property
    def settings_file(self) -> Path:
        return self.folder / "settings.json"

    def has(self, key: str) -> bool:
        """True if that case has been made, or refused."""
        return (self.cases / f"{key}.npz").exists()

    def put(self, key: str, crop: NDArray[np.uint8] | None, facts: CaseFacts) -> None:
        """Keep a crop (C, z, y, x), or None for a case that was refused."""
        arrays = {} if crop is None else {"crop": crop}

        def save(path: Path) -> None:
            with path.open("wb") as stream:
                np.savez(stream, allow_pickle=False, facts=np.array(json.dumps(asdict(facts))), **arrays)

        _write(self.cases / f"{key}.npz", save)

    def get(self, key: str) -> tuple[NDArray[np.uint8] | None, CaseFacts]:
        """Read what `put` kept."""
        with np.load(self.cases / f"{key}.npz", allow_pickle=False) as archive:
            facts = CaseFacts(**json.loads(str(archive["facts"])))
            return (archive["crop"] if not facts.code else None), facts

    def assembled(self, split: str, keys: Sequence[str]) -> tuple[NDArray[np.uint8] | None, list[CaseFacts]]:
        """All crops of a split as one memory map (those refused are not in it), and the facts of every key.

        Made from the cases' files the first time; None if every case was refused.
        """
        name = f"{split}_{_digest(*keys)}"
        index, file = self.folder / f"{name}.json", self.folder / f"{name}.npy"
        if not index.exists():
            self._assemble(keys, index, file)
            self._remove_older(split, name)
        facts = [CaseFacts(**entry) for entry in json.loads(index.read_text("utf-8"))]
        return (np.load(file, mmap_mode="r") if file.exists() else None), facts

    def _assemble(self, keys: Sequence[str], index: Path, file: Path) -> None:
        facts = [self.get(key)[1] for key in keys]
        made = [key for key, fact in zip(keys, facts, strict=True) if not fact.code]

        def fill(path: Path) -> None:
            first = self.get(made[0])[0]
            assert first is not None
            crops = np.lib.format.open_memmap(path, "w+", np.uint8, (len(made), *first.shape))
            for place, key in enumerate(made):
                crops[place] = self.get(key)[0]
            crops.flush()
            del crops

        if made:
            _write(file, fill)
        # The index comes last: where it is, the crops are complete.
        entries = json.dumps([asdict(fact) for fact in facts])
        _write(index, lambda path: path.write_text(entries, "utf-8"))

    def _remove_older(self, split: str, name: str) -> None:
        """Earlier assemblies of the split; the cases' own files stay, so that nothing has to be cut out again."""
        for index in self.folder.glob(f"{split}_*.json"):
            if index.stem != name:
                with contextlib.suppress(OSError):  # in use by another process, on Windows
                    index.unlink()
                    index.with_suffix(".npy").unlink()


def case_key(case: LabelledCase, is_simulated: bool) -> str:
    """A name for all that decides a case's crop: id, files by name, size and date, label, voltage."""
    files = [_signature(path) for path in (case.ct, case.mask) if path is not None]
    return _digest(json.dumps([case.case_id, files, case.mask is None, case.label, case.kvp, is_simulated]))


def _signature(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and date of a file, or of each file of a DICOM folder; of a header, also of its voxels' file."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    elif path.suffix.lower() in (".nhdr", ".mhd"):
        files = sorted(path.parent.glob(f"{path.stem}.*"))
    else:
        files = [path]
    root = path if path.is_dir() else path.parent
    found = [(file.relative_to(root).as_posix(), file.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def _write(path: Path, save: Any) -> None:
    """Call `save` with a name beside `path` that no other process uses, then put it in its place."""
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial{path.suffix}")
    save(partial)
    partial.replace(path)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()[:20]
