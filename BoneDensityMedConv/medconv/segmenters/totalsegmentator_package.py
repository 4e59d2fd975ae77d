"""The TotalSegmentator package as it is used here: nothing sent, nothing fetched, its failures in words.

Measured on 2.18.0. The package tells its makers about every run unless its config.json says otherwise, fetches
weights that are missing, and ends the process where it should raise. Inside `quiet_package` it does none of these.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medconv.packages import how_to_install
from medconv.segmenters import weights_store
from medconv.segmenters.nnunet_loading import WarmModels
from medconv.segmenters.nnunet_runtime import cores_to_use, require_nnunet, sequential_prediction
from medconv.segmenters.package_changes import environment, replaced
from medconv.types import MissingRequirement, QualityNote

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

# What the package writes on its first run, with the answer "no" to usage statistics.
SETTINGS = {
    "totalseg_id": "medconv",
    "send_usage_stats": False,
    "prediction_counter": 0,
    "statistics_disclaimer_shown": True,
}
DEVICES = {"cuda": "gpu", "mps": "mps", "cpu": "cpu"}
# Of nnunet_folder and nnunet_runtime, where a model folder is not as it should be.
WEIGHTS_CODES = ("weights_damaged", "weights_unreadable", "weights_missing", "weights_do_not_fit", "nnunet_")
PART_VERTEBRAE = weights_store.VERTEBRAE_1_5MM.task_id


def prepare_settings(home: Path) -> None:
    """Write the package's private settings, over whatever is there (an earlier run may have left half a file)."""
    home.mkdir(parents=True, exist_ok=True)
    partial = home / "config.json.part"
    partial.write_text(json.dumps(SETTINGS), "utf-8")
    partial.replace(home / "config.json")


@contextlib.contextmanager
def quiet_package(home: Path, weights: Path, notes: list[QualityNote], warm: WarmModels) -> Iterator[None]:
    """While inside, the package uses these settings and weights, sends and fetches nothing, starts no processes.

    The settings are in force before it is imported. Raises MissingRequirement: not installed, weights that can't be
    loaded, memory full.
    """
    prepare_settings(home)
    with environment(TOTALSEG_HOME_DIR=str(home), TOTALSEG_WEIGHTS_PATH=str(weights)):
        python_api, nnunet = _imported()
        from totalsegmentator import libs

        with (
            # By its number nnU-Net finds no network at all where an older one of the same number is left.
            replaced(nnunet, get_output_folder=lambda task_id, *_: str(_model_folder(weights, task_id))),
            replaced(python_api, download_pretrained_weights=_only_check),
            replaced(libs, download_url_and_unpack=_refuse, download_model_with_license_and_unpack=_refuse),
            # It takes as many threads as there are cores, whatever torch was told.
            replaced(multiprocessing, cpu_count=cores_to_use),
            sequential_prediction(notes, warm),
            _failures_in_words(),
        ):
            yield


def package_version() -> str:
    """The installed version, e.g. "2.18.0"."""
    from importlib.metadata import version

    return version("totalsegmentator")


def class_names() -> dict[int, str]:
    """Label → name of the package's task "total"."""
    from totalsegmentator.map_to_binary import class_map

    return dict(class_map["total"])


def predict_total_3mm(image: Nifti1Image, device: str) -> NDArray[np.uint8]:
    """Labels (z, y, x) of the 3 mm network for a canonical image at 3 mm; call inside `quiet_package`."""
    from totalsegmentator.python_api import totalsegmentator

    labels = totalsegmentator(
        image, None, ml=True, fast=True, task="total", device=_its_name(device), quiet=True,
        nr_thr_resamp=1, nr_thr_saving=1, skip_saving=True,
    )  # fmt: skip
    return _array_zyx(labels)


def predict_vertebrae(image: Nifti1Image, device: str) -> NDArray[np.uint8]:
    """Labels (z, y, x; numbers of task "total") of the 1.5 mm vertebra network alone, for a canonical image at 1.5 mm.

    `totalsegmentator(roi_subset=…)` would run another network first to cut the image, and ask for four more.
    """
    from totalsegmentator.map_tasks_config import TASK_CONFIGS
    from totalsegmentator.map_to_binary import class_map_5_parts, map_taskid_to_partname_ct
    from totalsegmentator.nnunet import nnUNet_predict_image
    from totalsegmentator.python_api import select_device

    settings = TASK_CONFIGS["total"]["sub_modes"]["default"]
    names = list(class_map_5_parts[map_taskid_to_partname_ct[PART_VERTEBRAE]].values())
    labels, _, _ = nnUNet_predict_image(
        image, None, [PART_VERTEBRAE], folds=[0], trainer=settings["trainer"], multilabel_image=True,
        resample=settings["resample"], task_name="total", roi_subset=names, nr_threads_resampling=1,
        nr_threads_saving=1, skip_saving=True, quiet=True, device=select_device(_its_name(device)),
    )  # fmt: skip
    return _array_zyx(labels)


def _its_name(device: str) -> str:
    """A torch device as TotalSegmentator calls it: "cuda:1" is "gpu:1"."""
    kind, colon, number = device.partition(":")
    return DEVICES[kind] + colon + number


def _array_zyx(image: Nifti1Image) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(image.dataobj).transpose(2, 1, 0), np.uint8)


def _imported() -> tuple[ModuleType, ModuleType]:
    require_nnunet()
    try:
        # Loading .nnunet replaces methods of nnU-Net's predictor: it must be done before `sequential_prediction` does.
        from totalsegmentator import nnunet, python_api
    except ImportError as error:
        raise MissingRequirement(
            "totalsegmentator_missing",
            f"The package TotalSegmentator is not installed, or a package it needs is not ({error.name}).",
            how_to_install("segment"),
            str(error),
        ) from error
    return python_api, nnunet


def _model_folder(weights: Path, task_id: int) -> Path:
    return next(d for d in weights_store.NEEDED["full"] if d.task_id == task_id).model_folder(weights)


def _only_check(task_id: int) -> None:
    """In place of the package's download: whether the weights are there was checked before (`weights_store`)."""


def _refuse(*_: object, **__: object) -> None:
    raise MissingRequirement(
        "segmenter_weights_missing",
        "TotalSegmentator asked for weights that are not on this computer.",
        "Fetch or import its weights; they are never fetched without being asked for.",
    )


@contextlib.contextmanager
def _failures_in_words() -> Iterator[None]:
    try:
        yield
    except MissingRequirement as error:
        if not error.code.startswith(WEIGHTS_CODES):
            raise
        raise _damaged(error.message, error.details) from error
    except SystemExit as error:
        raise RuntimeError(f"TotalSegmentator ended with {error.code!r}") from error


def _damaged(message: str, details: str) -> MissingRequirement:
    return MissingRequirement(
        "segmenter_weights_missing",
        f"TotalSegmentator's weights can't be used. {message}",
        "Remove its weights, then fetch or import them again.",
        details,
    )
