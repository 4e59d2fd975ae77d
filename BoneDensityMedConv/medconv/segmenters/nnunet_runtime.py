"""nnU-Net v2 inside this process: no child processes, real progress, weights kept warm, nothing on standard output.

`NNUNetModel` predicts a block. `sequential_prediction` makes nnU-Net's own `predict_from_files`, as TotalSegmentator
calls it, behave in the same way. Both adapt nnU-Net's module only while they run and put everything back.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import queue
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.segmenter import Progress
from medconv.segmenters.nnunet_folder import ModelFolder, load_checkpoint, read_model_folder
from medconv.segmenters.resampling import ResampledBlock
from medconv.types import MissingRequirement, QualityNote, Severity, UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")
WarmModels = dict[tuple[Any, ...], tuple[Any, ...]]


class NNUNetModel:
    """One model folder on a device, ready for one block after another."""

    def __init__(self, folder: str | Path, device: str = "auto") -> None:
        """Check and load. Raises MissingRequirement (nnU-Net, torch, files, device), UsageError (unknown device)."""
        require_nnunet()
        self.folder: ModelFolder = read_model_folder(folder)
        self.device = choose_device(device)
        self.checkpoint_sha256 = _sha256_of(self.folder.checkpoints)
        with _quiet():
            import torch
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

            self._predictor = nnUNetPredictor(
                use_mirroring=False,
                perform_everything_on_device=self.device == "cuda",
                device=torch.device(self.device),
                allow_tqdm=False,
            )
            with _out_of_memory_told():
                self._predictor.manual_initialization(*_initialisation(self.folder))

    def predict(self, block: ResampledBlock, progress: Progress) -> tuple[NDArray[np.uint8], list[QualityNote]]:
        """Labels (z, y, x) on the block's grid, and what is to be said about the run.

        progress: called after every tile of the sliding window, with the fraction of the whole; it may raise Cancelled.
        Raises MissingRequirement ("out_of_memory").
        """
        notes: list[QualityNote] = []
        image = block.array_zyx[np.newaxis].astype(np.float32)
        x, y, z = block.spacing_mm_xyz
        folds = len(self.folder.checkpoints)
        with adapted_nnunet(notes), reporting_progress(progress, "Finding vertebrae", runs=folds):
            labels = self._predictor.predict_single_npy_array(image, {"spacing": [z, y, x]})
        self.device = self._predictor.device.type
        return np.asarray(labels).astype(np.uint8), notes


def require_nnunet() -> None:
    """Raise MissingRequirement if torch or nnU-Net is not installed."""
    for package in ("torch", "nnunetv2"):
        if importlib.util.find_spec(package) is None:
            raise MissingRequirement(
                f"{package}_missing",
                f"The package {package} is not installed.",
                "In Slicer: let the panel install it. Elsewhere: pip install 'bonedensity-medconv[segment]'",
            )


def choose_device(wanted: str = "auto") -> str:
    """ "cuda", "mps" or "cpu" for a request; "auto" takes the first that is there. Raises UsageError, MissingRequirement."""
    if wanted not in DEVICES:
        raise UsageError("unknown_device", f"There is no device '{wanted}'.", f"Choose one of: {', '.join(DEVICES)}.")
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, there in present.items() if there)
    if not present[wanted]:
        raise MissingRequirement(
            "device_missing",
            f"This computer has no usable '{wanted}' device.",
            "Use device auto or cpu, or install the matching driver and PyTorch build.",
        )
    return wanted


@contextlib.contextmanager
def reporting_progress(
    progress: Progress, stage: str, start: float = 0.0, end: float = 1.0, runs: int = 1
) -> Iterator[None]:
    """While inside, nnU-Net's sliding window calls `progress(stage, fraction)` from `start` to `end`.

    runs: how many sliding windows there will be (one per fold). The fraction never falls, also if one is repeated.
    """
    from nnunetv2.inference import predict_from_raw_data as nnunet

    state = {"finished": 0, "told": start}

    class Reporter:
        """Stands in for nnU-Net's tqdm bar."""

        def __init__(self, *_: object, total: int = 1, **__: object) -> None:
            self._total, self._done = max(total, 1), 0

        def __enter__(self) -> Reporter:
            return self

        def __exit__(self, kind: object, *_: object) -> None:
            if kind is None:
                state["finished"] += 1

        def update(self, steps: int = 1) -> None:
            self._done += steps
            part = min((state["finished"] + self._done / self._total) / runs, 1.0)
            state["told"] = max(state["told"], start + (end - start) * part)
            progress(stage, state["told"])

    progress(stage, start)
    with _replaced(nnunet, "tqdm", Reporter):
        yield


@contextlib.contextmanager
def sequential_prediction(notes: list[QualityNote] | None = None, warm: WarmModels | None = None) -> Iterator[None]:
    """While inside, nnUNetPredictor.predict_from_files runs in this process, and checkpoints are loaded safely.

    notes: takes what is to be said about the run (a full GPU). warm: keeps loaded networks from one call to the next.
    Raises MissingRequirement out of the block for a full memory.
    """
    from nnunetv2.inference import predict_from_raw_data as nnunet

    predictor = nnunet.nnUNetPredictor
    kept = {} if warm is None else warm

    def from_files(self: Any, sources: Any, outputs: Any, *_: Any, **options: Any) -> Any:
        wanted = ("save_probabilities", "overwrite", "folder_with_segs_from_prev_stage")
        return self.predict_from_files_sequential(sources, outputs, **{k: options[k] for k in wanted if k in options})

    def initialise(self: Any, folder: Any, use_folds: Any = None, checkpoint_name: str = "") -> None:
        self.manual_initialization(*_initialisation(read_model_folder(folder, checkpoint_name), kept))

    with (
        adapted_nnunet([] if notes is None else notes),
        _replaced(predictor, "predict_from_files", from_files),
        _replaced(predictor, "initialize_from_trained_model_folder", initialise),
    ):
        yield


@contextlib.contextmanager
def adapted_nnunet(notes: list[QualityNote]) -> Iterator[None]:
    """nnU-Net made fit for a worker while inside: quiet, its threads stopped at the end, full memory answered."""
    from nnunetv2.inference import predict_from_raw_data as nnunet

    with _quiet(), _out_of_memory_told():
        yield


def _initialisation(folder: ModelFolder, warm: WarmModels | None = None) -> tuple[Any, ...]:
    """Arguments of nnUNetPredictor.manual_initialization: the network with its first fold's weights, and the rest."""
    from nnunetv2.inference import predict_from_raw_data as nnunet

    checkpoints = [load_checkpoint(path) for path in folder.checkpoints]
    plans = nnunet.PlansManager(dict(folder.plans))
    configuration = plans.get_configuration(checkpoints[0]["init_args"]["configuration"])
    dataset = dict(folder.dataset)
    trainer = nnunet.recursive_find_trainer_class_by_name(checkpoints[0]["trainer_name"])
    network = trainer.build_network_architecture(
        plans,
        configuration,
        nnunet.determine_num_input_channels(plans, configuration, dataset),
        plans.get_label_manager(dataset).num_segmentation_heads,
        enable_deep_supervision=False,
    )
    weights = [checkpoint["network_weights"] for checkpoint in checkpoints]
    network.load_state_dict(weights[0])
    return network, plans, configuration, weights, dataset, checkpoints[0]["trainer_name"], None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what nnU-Net prints and warns of: errors come as exceptions."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _out_of_memory_told() -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise MissingRequirement("out_of_memory", "The computer's memory is full.", "Close other programs.") from error


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _sha256_of(paths: tuple[Path, ...]) -> str:
    """SHA-256 of the weight file, or of all folds' hashes."""
    digests = []
    for path in paths:
        with path.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
