"""A full memory: what nnU-Net does next on a GPU, and what a person is told where nothing more can be done.

A GPU that is full is answered in two steps that leave the result as it is: the sum of the tiles is kept in the
computer's memory, then the network runs on the CPU. Smaller tiles would fit more often, but a network that sees less
of the spine at a time may name the wrong vertebra.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

from medconv.segmenters.package_changes import replaced
from medconv.types import MissingRequirement, QualityNote, Severity

GPU_MEMORY_WORDS = ("out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
MEMORY_WORDS = ("not enough memory", "can't allocate memory", "cannot allocate memory")


@contextlib.contextmanager
def out_of_memory_told() -> Iterator[None]:
    """Turn a full memory, as Python or torch report it, into MissingRequirement "out_of_memory"."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory(error):
            raise
        raise MissingRequirement(
            "out_of_memory",
            "The computer's memory is full: the segmentation network needs more than is free.",
            "Close other programs and images and run it again; 'fast' quality, or a CT cut to the lumbar spine, needs "
            "less.",
            str(error)[:200],
        ) from error


@contextlib.contextmanager
def gpu_memory_answered(notes: list[QualityNote]) -> Iterator[None]:
    """While inside, an nnU-Net predictor whose GPU is full goes on with less of it, then on the CPU, and notes it."""
    from nnunetv2.inference import predict_from_raw_data as nnunet

    predictor = nnunet.nnUNetPredictor
    tiles, whole = (
        predictor._internal_predict_sliding_window_return_logits,
        predictor.predict_sliding_window_return_logits,
    )

    def predict_tiles(self: Any, data: Any, slicers: Any, do_on_device: bool = True) -> Any:
        stop = threading.Event()
        try:
            with replaced(nnunet, Queue=partial(TileQueue, stop), Thread=TileThread):
                return tiles(self, data, slicers, do_on_device)
        except RuntimeError as error:
            if do_on_device and is_gpu_memory(error):  # nnU-Net itself then repeats with do_on_device=False
                self.perform_everything_on_device = False
                notes.append(_note("gpu_memory_low", "its result was put together in the computer's memory"))
            raise
        finally:
            stop.set()

    def predict_whole(self: Any, input_image: Any) -> Any:
        try:
            return whole(self, input_image)
        except RuntimeError as error:
            if not runs_on_gpu(self) or not is_gpu_memory(error):
                raise
        notes.append(_note("gpu_memory_full", "it ran on the CPU, which takes longer"))
        _move_to_cpu(self)
        return whole(self, input_image)

    with replaced(
        predictor,
        _internal_predict_sliding_window_return_logits=predict_tiles,
        predict_sliding_window_return_logits=predict_whole,
    ):
        yield


class _Stopped(Exception):
    """The prediction is over: no more tiles are wanted."""


class TileThread(threading.Thread):
    """nnU-Net's thread that fills the queue of tiles; it ends with the prediction, also with one that was broken off.

    As nnU-Net has it, it would then wait for ever and keep the image in (GPU) memory.
    """

    def run(self) -> None:
        with contextlib.suppress(_Stopped):
            super().run()


class TileQueue(queue.Queue):
    """nnU-Net's queue of tiles, which can be closed."""

    def __init__(self, stop: threading.Event, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._stop = stop

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                return super().put(item, timeout=0.1)
        raise _Stopped


def is_memory(error: BaseException) -> bool:
    """True if an error means that a memory, the computer's or a GPU's, is full."""
    return isinstance(error, MemoryError) or _says(error, MEMORY_WORDS + GPU_MEMORY_WORDS)


def is_gpu_memory(error: BaseException) -> bool:
    """True if an error means that the GPU's memory is full."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or _says(error, GPU_MEMORY_WORDS)


def runs_on_gpu(predictor: Any) -> bool:
    """True unless an nnU-Net predictor runs on the CPU."""
    return bool(predictor.device.type != "cpu")


def _move_to_cpu(predictor: Any) -> None:
    import torch

    predictor.device, predictor.perform_everything_on_device = torch.device("cpu"), False
    predictor.network.to(predictor.device)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return any(word.lower() in str(error).lower() for word in words)


def _note(code: str, what: str) -> QualityNote:
    return QualityNote(code, Severity.INFO, f"The GPU's memory was too small for the segmentation network: {what}.")
