"""TotalSegmentator's weights on this computer: which are needed, whether they are whole; fetch, import, remove them.

They stay where the package keeps them, so that nothing is fetched twice. Only `fetch` loads the package; the rest
reads files and is quick enough to be asked whenever a panel is drawn.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from medconv.segmenter import QUALITIES, Progress
from medconv.segmenters.weights_archive import unpack
from medconv.segmenters.weights_incoming import clear_abandoned, incoming
from medconv.types import InputRefused, MissingRequirement, UsageError

RELEASE = "https://github.com/wasserth/TotalSegmentator/releases/download/v2.0.0-weights"
ALL = "all"
CHECKPOINT = Path("fold_0") / "checkpoint_final.pth"


@dataclass(frozen=True)
class WeightsDataset:
    """One network of TotalSegmentator v2, named as in the package's map_tasks_config.py."""

    task_id: int
    folder: str
    trainer: str

    @property
    def address(self) -> str:
        """Where the package fetches it, and where a person can."""
        return f"{RELEASE}/{self.folder}.zip"

    def model_folder(self, weights: Path) -> Path:
        """The folder with plans and checkpoint inside the weights folder."""
        return weights / self.folder / f"{self.trainer}__nnUNetPlans__3d_fullres"


TOTAL_3MM = WeightsDataset(
    297, "Dataset297_TotalSegmentator_total_3mm_1559subj", "nnUNetTrainer_4000epochs_NoMirroring"
)
VERTEBRAE_1_5MM = WeightsDataset(
    292, "Dataset292_TotalSegmentator_part2_vertebrae_1532subj", "nnUNetTrainerNoMirroring"
)
NEEDED = {"fast": (TOTAL_3MM,), "full": (TOTAL_3MM, VERTEBRAE_1_5MM)}


@dataclass(frozen=True)
class WeightsStatus:
    """What is there of the weights that a quality needs, by the names of their folders inside `folder`.

    `damaged` says what is wrong with those that are there but not whole. `size_bytes` counts all that is there.
    """

    folder: Path
    present: tuple[str, ...]
    missing: tuple[str, ...]
    damaged: tuple[tuple[str, str], ...]
    size_bytes: int

    @property
    def complete(self) -> bool:
        """True if a segmentation can start."""
        return not self.missing and not self.damaged


def usual_folder() -> Path:
    """Where TotalSegmentator keeps its weights for this user (the package's own rule, config.get_weights_dir)."""
    if chosen := os.environ.get("TOTALSEG_WEIGHTS_PATH"):
        return Path(chosen)
    home = os.environ.get("TOTALSEG_HOME_DIR")
    return (Path(home) if home else Path.home() / ".totalsegmentator") / "nnunet" / "results"


def folder_of(weights_folder: str = "") -> Path:
    """The folder a request means: the given one, or the usual one."""
    return Path(weights_folder).expanduser().absolute() if weights_folder else usual_folder()


def status(quality: str, weights_folder: str = "") -> WeightsStatus:
    """Which weights of a quality ("full", "fast", or "all" for whatever is used) are there and whole.

    Looks at names, sizes and headers, not at every byte. Raises UsageError for another quality.
    """
    folder = folder_of(weights_folder)
    present, missing, damaged, size = [], [], [], 0
    for dataset in _datasets(quality):
        if not (folder / dataset.folder).is_dir():
            missing.append(dataset.folder)
            continue
        size += _size(folder / dataset.folder)
        if wrong := damage(folder, dataset):
            damaged.append((dataset.folder, wrong))
        else:
            present.append(dataset.folder)
    return WeightsStatus(folder, tuple(present), tuple(missing), tuple(damaged), size)


def require(quality: str, weights_folder: str = "") -> Path:
    """The weights folder. Raises MissingRequirement, with what to do, unless all of a quality's weights are whole."""
    found = status(quality, weights_folder)
    if found.complete:
        return found.folder
    if found.damaged:
        name, wrong = found.damaged[0]
        message = f"TotalSegmentator's weights are not whole: in {name}, {wrong}."
    else:
        message = f"TotalSegmentator's weights are not on this computer: {', '.join(found.missing)}."
    raise MissingRequirement(
        "segmenter_weights_missing",
        message,
        "Fetch them (a few hundred megabytes, once), or get the files elsewhere and import them: "
        + " ".join(d.address for d in _datasets(quality) if d.folder not in found.present),
        f"Looked in {found.folder}.",
    )


def damage(folder: Path, dataset: WeightsDataset, every_byte: bool = False) -> str:
    """What is wrong with a data set's folder, in words; "" if nothing is.

    every_byte: also compare the checkpoint's content with its checksums (seconds).
    """
    model = dataset.model_folder(folder)
    if not model.is_dir():
        return f"the folder {model.name} is missing (cut off, or of another version of TotalSegmentator)"
    for name, keys in (("dataset.json", ("labels", "vertebrae_L1")), ("plans.json", ("configurations", "3d_fullres"))):
        try:
            json.loads((model / name).read_text("utf-8"))[keys[0]][keys[1]]
        except (OSError, ValueError, KeyError, TypeError):
            return f"{name} is missing or damaged"
    checkpoint = model / CHECKPOINT
    if not checkpoint.is_file():
        return f"{checkpoint.name} is missing"
    # PyTorch's checkpoints are zip archives; the directory at the end is gone when a file is cut off.
    if not zipfile.is_zipfile(checkpoint):
        return f"{checkpoint.name} is damaged or cut off"
    return _broken_member(checkpoint) if every_byte else ""


def fetch(quality: str, progress: Progress, weights_folder: str = "") -> WeightsStatus:
    """Fetch what is missing of a quality's weights through the package's own download; ask the person first.

    An interrupted fetch leaves nothing half: everything is fetched aside and moved when it is whole.
    Raises MissingRequirement if the package is missing, GitHub can't be reached or the folder can't be written.
    """
    from medconv.segmenters.weights_download import download

    folder = folder_of(weights_folder)
    needed = _datasets(quality)
    todo = [dataset for dataset in needed if damage(folder, dataset)]
    for number, dataset in enumerate(todo):

        def tell(fraction: float, number: int = number) -> None:
            progress(f"Fetching weights {number + 1} of {len(todo)}", (number + fraction) / len(todo))

        with incoming(folder) as place:
            download(dataset.task_id, dataset.address, place, tell)
            _accept(place, folder, dataset)
    return status(quality, weights_folder)


def import_file(source: str | Path, progress: Progress, weights_folder: str = "") -> tuple[str, ...]:
    """Install weights from a release zip, or from a folder that holds them; the names of what was installed.

    For hospitals without internet: the files of `WeightsDataset.address`, or another computer's weights folder.
    Raises InputRefused if the source holds none of the weights used here, is damaged or unsafe to unpack,
    MissingRequirement if the folder can't be written.
    """
    source, folder = Path(source), folder_of(weights_folder)
    known = {dataset.folder: dataset for dataset in _datasets(ALL)}
    with incoming(folder) as place:
        names = unpack(source, known, place, lambda done: progress("Importing weights", done))
        for name in names:
            _accept(place, folder, known[name])
    return names


def remove(quality: str = ALL, weights_folder: str = "") -> int:
    """Remove the weights that a quality needs ("all": whatever is used here); returns the bytes that became free.

    Other networks of TotalSegmentator in the same folder stay. Of a linked folder only the link goes.
    """
    folder = folder_of(weights_folder)
    if folder.is_dir():
        clear_abandoned(folder)
    freed = 0
    for dataset in _datasets(quality):
        path = folder / dataset.folder
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            size = _size(path)
            shutil.rmtree(path)
            freed += size
    return freed


def _datasets(quality: str) -> tuple[WeightsDataset, ...]:
    if quality == ALL:
        return (TOTAL_3MM, VERTEBRAE_1_5MM)
    if quality not in NEEDED:
        raise UsageError("quality_unknown", f"There is no quality '{quality}'.", f"Choose {' or '.join(QUALITIES)}.")
    return NEEDED[quality]


def _accept(place: Path, folder: Path, dataset: WeightsDataset) -> None:
    """Move a data set from its temporary place to the weights, if it is whole to the last byte."""
    if wrong := damage(place, dataset, every_byte=True):
        raise InputRefused(
            "segmenter_weights_damaged",
            f"What came for {dataset.folder} is not whole: {wrong}.",
            f"Expected the content of {dataset.address}. Fetch or copy it again.",
        )
    target = folder / dataset.folder
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        target.rename(place / "replaced")
    (place / dataset.folder).rename(target)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _broken_member(checkpoint: Path) -> str:
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError):
        broken = checkpoint.name
    return f"{checkpoint.name} is damaged" if broken else ""
