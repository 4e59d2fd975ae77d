"""nnU-Net v2 inside this process: no child processes, real progress, weights kept warm, nothing on standard output.

`NNUNetModel` predicts a block. `sequential_prediction` makes nnU-Net's own `predict_from_files`, as TotalSegmentator
calls it, behave in the same way. Both change nnU-Net's module only while they run and put everything back.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.control_groups import cores
from medconv.devices import choose_device
from medconv.packages import how_to_install
from medconv.segmenter import Progress
from medconv.segmenters.lean_logits import lean_logits
from medconv.segmenters.memory import gpu_memory_answered, out_of_memory_told
from medconv.segmenters.nnunet_folder import ModelFolder, read_model_folder
from medconv.segmenters.nnunet_loading import WarmModels as WarmModels
from medconv.segmenters.nnunet_loading import initialisation, sha256_of
from medconv.segmenters.package_changes import replaced
from medconv.segmenters.resampling import ResampledBlock
from medconv.types import MissingRequirement, QualityNote

MANY_CORES = 4  # from there on one is left to the window that waits


class NNUNetModel:
    """One model folder on a device, ready for one block after another."""

    def __init__(self, folder: str | Path, device: str = "auto") -> None:
        """Check and load. Raises MissingRequirement (nnU-Net, torch, files, device), UsageError (unknown device)."""
        require_nnunet()
        self.folder: ModelFolder = read_model_folder(folder)
        self.device = choose_device(device)
        self.checkpoint_sha256 = sha256_of(self.folder.checkpoints)
        with _quiet(), out_of_memory_told():
            import torch
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

            self._predictor = nnUNetPredictor(use_mirroring=False, device=torch.device(self.device))
            self._predictor.manual_initialization(*initialisation(self.folder))

    def predict(
        self, block: ResampledBlock, progress: Progress, stage: str = "Finding vertebrae"
    ) -> tuple[NDArray[np.uint8], list[QualityNote]]:
        """Labels (z, y, x) on the block's grid, and what is to be said about the run.

        progress: called after every tile of the sliding window with the fraction done, 0 to 1; it may raise Cancelled.
        Raises MissingRequirement ("out_of_memory").
        """
        import torch

        notes: list[QualityNote] = []
        # A case that did not fit into the GPU must not send the next one to the CPU too.
        self._predictor.device = torch.device(self.device)
        self._predictor.perform_everything_on_device = self.device.startswith("cuda")
        x, y, z = block.spacing_mm_xyz
        with adapted_nnunet(notes), reporting_progress(progress, stage, runs=len(self.folder.checkpoints)):
            image = block.array_zyx[np.newaxis].astype(np.float32)  # (channel, z, y, x)
            labels = self._predictor.predict_single_npy_array(image, {"spacing": [z, y, x]})
        return np.asarray(labels).astype(np.uint8, copy=False), notes


def require_nnunet() -> None:
    """Raise MissingRequirement if torch or nnU-Net is not installed."""
    for package in ("torch", "nnunetv2"):
        if importlib.util.find_spec(package) is None:
            raise MissingRequirement(
                f"{package}_missing",
                f"The package {package} is not installed.",
                how_to_install("segment"),
            )


@contextlib.contextmanager
def reporting_progress(
    progress: Progress, stage: str, start: float = 0.0, end: float = 1.0, runs: int = 1
) -> Iterator[None]:
    """While inside, nnU-Net's sliding window calls `progress(stage, fraction)` from `start` to `end`.

    runs: how many sliding windows there will be (one per fold). The fraction never falls, also if one is repeated.
    """
    from nnunetv2.inference import predict_from_raw_data as nnunet

    finished, told = 0, start

    class Reporter:
        """Stands in for nnU-Net's tqdm bar."""

        def __init__(self, *_: object, total: int | None = None, **__: object) -> None:
            self._total, self._done = total or 1, 0

        def __enter__(self) -> Reporter:
            return self

        def __exit__(self, kind: object, *_: object) -> None:
            nonlocal finished
            finished += kind is None

        def update(self, steps: int = 1) -> None:
            nonlocal told
            self._done += steps
            part = min((finished + self._done / self._total) / runs, 1.0)
            told = max(told, start + (end - start) * part)
            progress(stage, told)

    progress(stage, start)
    with replaced(nnunet, tqdm=Reporter):
        yield


@contextlib.contextmanager
def sequential_prediction(notes: list[QualityNote] | None = None, warm: WarmModels | None = None) -> Iterator[None]:
    """While inside, nnUNetPredictor.predict_from_files runs in this process, and checkpoints are loaded safely.

    notes: takes what is to be said about the run (a GPU that was full). warm: keeps networks from one call to the
    next. Raises MissingRequirement for a full memory, and for weights that are missing, damaged or not safe.
    """
    from nnunetv2.inference import predict_from_raw_data as nnunet

    kept: WarmModels = {} if warm is None else warm

    def from_files(self: Any, sources: Any, outputs: Any, *_: Any, **options: Any) -> Any:
        # The options that are left out (numbers of processes, parts) make no sense in one process.
        wanted = ("save_probabilities", "overwrite", "folder_with_segs_from_prev_stage")
        if isinstance(sources, str):
            sources = _cases_in(Path(sources), self.dataset_json["file_ending"])
        return self.predict_from_files_sequential(sources, outputs, **{k: options[k] for k in wanted if k in options})

    def initialise(self: Any, folder: Any, use_folds: Any = None, checkpoint_name: str = "") -> None:
        folds = None if use_folds is None else [use_folds] if isinstance(use_folds, (str, int)) else list(use_folds)
        self.manual_initialization(*initialisation(read_model_folder(folder, checkpoint_name, folds), kept))

    with (
        adapted_nnunet([] if notes is None else notes),
        replaced(
            nnunet.nnUNetPredictor, predict_from_files=from_files, initialize_from_trained_model_folder=initialise
        ),
    ):
        yield


def _cases_in(folder: Path, ending: str) -> list[list[str]]:
    """The files of each case, one per channel (NAME_0000.nii.gz, …): nnU-Net's own listing starts processes."""
    cases: dict[str, list[str]] = {}
    for path in sorted(folder.glob(f"*_[0-9][0-9][0-9][0-9]{ending}")):
        cases.setdefault(path.name[: -len(ending) - len("_0000")], []).append(str(path))
    return list(cases.values())


@contextlib.contextmanager
def adapted_nnunet(notes: list[QualityNote]) -> Iterator[None]:
    """While inside, nnU-Net is quiet and frugal, leaves a core to others and no thread, and answers a full memory."""
    import torch

    with _quiet(), out_of_memory_told():
        from nnunetv2.inference import predict_from_raw_data as nnunet

        before = torch.get_num_threads()
        threads = min(before, cores_to_use())
        torch.set_num_threads(threads)
        try:
            with gpu_memory_answered(notes), lean_logits(), replaced(nnunet, default_num_processes=threads):
                yield
        finally:
            torch.set_num_threads(before)


def cores_to_use() -> int:
    """How many threads the network may take on the CPU: all cores of a small computer, all but one of a larger one."""
    available = cores()
    return available if available <= MANY_CORES else available - 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what nnU-Net prints and warns of: errors come as exceptions."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
