"""An nnU-Net v2 model folder on disk: what it holds, checked before anything of it is loaded.

Of plans.json only networks and layers from nnU-Net's own packages are accepted: nnU-Net imports what it names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medconv.types import MissingRequirement

CONFIGURATION = "3d_fullres"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
TRUSTED_PACKAGES = ("torch.", "dynamic_network_architectures.")
MOST_LABELS = 256  # with the background: labels are kept as one byte
EXPORT_AGAIN = "Copy or unpack the model folder again, whole: plans.json, dataset.json and fold_*/checkpoint_final.pth."


@dataclass(frozen=True)
class ModelFolder:
    """A checked model folder. `checkpoints` are the weight files of its folds, in order."""

    path: Path
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    configuration: str
    checkpoints: tuple[Path, ...]

    @property
    def dataset_name(self) -> str:
        return str(self.plans.get("dataset_name") or self.path.parent.name)

    @property
    def reorients(self) -> bool:
        """True if the network's reader turns every image to RAS; the others take it as it is stored."""
        return str(self.plans.get("image_reader_writer")) == "NibabelIOWithReorient"

    @property
    def spacing_mm_xyz(self) -> tuple[float, float, float]:
        """The network's voxel spacing along right, front and head."""
        transposed = self.plans["configurations"][self.configuration]["spacing"]
        backward = self.plans.get("transpose_backward", (0, 1, 2))
        z, y, x = (float(transposed[axis]) for axis in backward)
        return x, y, z

    @property
    def label_names(self) -> dict[str, Any]:
        """Name → label (or nnU-Net's list of labels) as dataset.json has it."""
        return dict(self.dataset["labels"])


def find_model_folder(folder: str | Path) -> Path:
    """The model folder: `folder` itself, or its only `*__*Plans*__3d_fullres` if it is a DatasetXXX folder.

    Raises MissingRequirement if there is none, or more than one.
    """
    path = Path(folder).expanduser()
    try:
        is_there = path.is_dir()
    except OSError:  # a name that no file can have
        is_there = False
    if not is_there:
        raise MissingRequirement(
            "nnunet_folder_missing", f"There is no folder '{path}'.", "Choose the nnU-Net model's folder."
        )
    if (path / "plans.json").is_file() or (path / "dataset.json").is_file():
        return path
    found = sorted(p for p in path.glob(f"*__*Plans*__{CONFIGURATION}") if p.is_dir())
    if len(found) == 1:
        return found[0]
    if found:
        raise MissingRequirement(
            "nnunet_folder_ambiguous",
            f"'{path.name}' holds {len(found)} models: {', '.join(p.name for p in found)}.",
            "Choose one of these folders.",
        )
    if any(path.rglob("*.model.pkl")) or (path / "plans.pkl").is_file():
        raise MissingRequirement(
            "nnunet_version_1",
            f"'{path.name}' is a model of nnU-Net v1.",
            "Choose a model of nnU-Net v2; weights of v1 can't be converted.",
        )
    raise MissingRequirement(
        "nnunet_folder_wrong",
        f"'{path.name}' is no nnU-Net v2 model folder: it has no plans.json and no dataset.json, and no folder named "
        f"…__…Plans…__{CONFIGURATION}.",
        f"Choose the folder that holds plans.json, dataset.json and fold_0 (nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
        "), or the Dataset… folder above it.",
    )


def read_model_folder(
    folder: str | Path, checkpoint_name: str = "", folds: Sequence[int | str] | None = None
) -> ModelFolder:
    """Read and check a model folder; weights are not loaded yet. All folds that are there, unless some are named.

    Raises MissingRequirement: files missing or damaged, no 3d_fullres network, several channels, a network from a
    package that is not nnU-Net's.
    """
    path = find_model_folder(folder)
    plans, dataset = _read_json(path / "plans.json"), _read_json(path / "dataset.json")
    # A folder's name ends with its configuration; one that was renamed is taken as the usual one.
    named = path.name.rpartition("__")[2]
    configuration = named if named in plans.get("configurations", ()) else CONFIGURATION
    _check_plans(path, plans, configuration)
    _check_dataset(path, dataset)
    checkpoints = _find_checkpoints(path, [checkpoint_name] if checkpoint_name else CHECKPOINTS, folds)
    return ModelFolder(path, plans, dataset, configuration, checkpoints)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingRequirement(
            "nnunet_file_missing", f"The nnU-Net model folder has no {path.name}.", EXPORT_AGAIN, str(path.parent)
        )
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise MissingRequirement(
            "nnunet_file_damaged", f"{path.name} of the nnU-Net model can't be read ({error}).", EXPORT_AGAIN, str(path)
        ) from error
    if not isinstance(document, dict):
        raise MissingRequirement(
            "nnunet_file_damaged", f"{path.name} of the nnU-Net model is no JSON object.", EXPORT_AGAIN, str(path)
        )
    return document


def _check_plans(path: Path, plans: Mapping[str, Any], configuration: str) -> None:
    known = plans.get("configurations")
    chosen = known.get(configuration) if isinstance(known, Mapping) else None
    if not isinstance(chosen, Mapping) or len(chosen.get("spacing", ())) != 3 or chosen.get("previous_stage"):
        there = ", ".join(known) if isinstance(known, Mapping) and known else "none"
        raise MissingRequirement(
            "nnunet_configuration_missing",
            f"The model has no 3D network that works by itself ({CONFIGURATION}); its plans have: {there}.",
            f"Choose a model of nnU-Net v2 that was trained as {CONFIGURATION}.",
            str(path),
        )
    for name in _classes_named(chosen):
        if not name.startswith(TRUSTED_PACKAGES):
            raise MissingRequirement(
                "weights_not_safe",
                f"The model's plans ask for '{name}', which is no part of nnU-Net: it would run foreign code.",
                "Choose a model with nnU-Net's own networks (plain or residual encoder U-Net).",
                str(path),
            )


def _check_dataset(path: Path, dataset: Mapping[str, Any]) -> None:
    channels = dataset.get("channel_names") or dataset.get("modality") or {}
    labels = dataset.get("labels")
    if not isinstance(labels, Mapping) or not 1 < len(labels) <= MOST_LABELS or len(channels) != 1:
        count = len(labels) if isinstance(labels, Mapping) else 0
        raise MissingRequirement(
            "nnunet_dataset_unfit",
            f"The model's dataset.json must name one channel, CT, and up to {MOST_LABELS} labels; it names "
            f"{len(channels)} channels and {count} labels.",
            "Choose a model that was trained on CT alone.",
            str(path),
        )


def _classes_named(configuration: Mapping[str, Any]) -> list[str]:
    """Dotted names in the plans that nnU-Net would import."""
    architecture = configuration.get("architecture")
    if not architecture:
        return []  # the older format names no modules
    arguments = architecture.get("arch_kwargs", {})
    named = [arguments.get(key) for key in architecture.get("_kw_requires_import", ())]
    return [str(name) for name in (architecture.get("network_class_name"), *named) if name is not None]


def _find_checkpoints(path: Path, names: Sequence[str], folds: Sequence[int | str] | None) -> tuple[Path, ...]:
    there = sorted(p for p in path.glob("fold_*") if p.is_dir() and p.name != "fold_all")
    wanted = [path / f"fold_{fold}" for fold in folds] if folds else there or [path / "fold_all"]
    for name in names:
        found = [fold / name for fold in wanted if (fold / name).is_file()]
        if len(found) == len(wanted) or (found and not folds):
            return tuple(found)
    missing = f"no {names[0]} in {', '.join(fold.name for fold in wanted)}" if there else "no fold_0 in it"
    raise MissingRequirement("weights_missing", f"The model folder has no weights: {missing}.", EXPORT_AGAIN, str(path))
