"""The network as `LoadedModel` uses it: any number of crops, whatever becomes of memory or of a runtime."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from medconv import runtimes
from medconv.runtimes import memory
from medconv.runtimes.runtime import CannotRun, Runtime, Subject
from medconv.types import QualityNote, Severity


class Engine:
    """A runtime with the reference behind it. `name` and `device` tell what ran last.

    Several threads may call it: one is served after another, as most runtimes have one place for input and output.
    A runtime that fails is not asked again. Full memory halves the number of crops in a pass for good; when a GPU can't
    hold a single one, the CPU takes over.
    """

    def __init__(self, subject: Subject, runtime: Runtime | None = None) -> None:
        self._subject = subject
        self._reference = _reference(subject)
        self._runtime = runtime or self._reference
        self._failure: list[QualityNote] = []
        self._one_at_a_time = Lock()
        self._at_once = memory.crops_at_once(subject.architecture, subject.input_shape)
        self.name, self.device = self._runtime.name, subject.device

    def __call__(self, crops: NDArray[np.float32]) -> tuple[NDArray[np.float64], list[QualityNote]]:
        """Logits (n, outputs) of crops (n, channels, z, y, x), n ≥ 1, and what there is to say.

        Raises MemoryError if the computer's memory can't hold a pass of one crop.
        """
        with self._one_at_a_time:
            return self._in_passes(crops)

    def _in_passes(self, crops: NDArray[np.float32]) -> tuple[NDArray[np.float64], list[QualityNote]]:
        notes: list[QualityNote] = []
        found = []
        first = 0
        while first < len(crops):
            chunk = crops[first : first + self._at_once]
            try:
                found.append(self._pass(chunk, notes))
            except Exception as error:
                if not memory.is_full(error):
                    raise
                notes += self._with_less_memory(error, len(chunk))
                continue  # the same crops once more, outside the handler: its traceback held the arrays
            first += len(chunk)
        return np.concatenate(found), notes

    def _pass(self, chunk: NDArray[np.float32], notes: list[QualityNote]) -> NDArray[np.float64]:
        """Logits of a chunk by the runtime or, where it fails, by the reference. Raises only errors of memory."""
        # NaN is the reference's: oneDNN's and OpenVINO's ReLU make 0 of it, and a class would be answered.
        if self._runtime is not self._reference and np.isfinite(chunk).all():
            try:
                logits = self._runtime(chunk)
                self.name = self._runtime.name
                if np.isfinite(logits).all():
                    return logits
                reason = "its answer was no number"  # half precision ends at 65504
            except CannotRun:
                reason = ""  # these crops are not what it was opened for: nothing is wrong with it
            except Exception as error:
                if memory.is_full(error):
                    raise
                reason = type(error).__name__
            if reason:
                self._failure = [failure_note(self._runtime.name, reason)]
                self._runtime = self._reference
        notes += [note for note in self._failure if note not in notes]  # every later answer rests on it too
        logits = self._reference(chunk)
        self.name = self._reference.name
        return logits

    def _with_less_memory(self, error: Exception, crops: int) -> list[QualityNote]:
        """Make the next pass smaller. Raises MemoryError where nothing smaller is left."""
        _forget(self.device)
        if crops > 1:
            self._at_once = crops // 2
            return []
        if self.device == "cpu":
            raise MemoryError(f"no memory for one crop of {self._subject.input_shape}") from error
        note = memory_note(self.device)
        self._subject = replace(self._subject, network=self._subject.network.to("cpu"), device="cpu")
        self._reference = self._runtime = _reference(self._subject)
        _forget(self.device)
        self.device = "cpu"
        self._at_once = memory.crops_at_once(self._subject.architecture, self._subject.input_shape)
        return [note]


def memory_note(device: str) -> QualityNote:
    """That the CPU answered because a GPU's memory was full."""
    text = f"The memory of '{device}' was full: MedConv ran on the CPU."
    return QualityNote("gpu_memory_full", Severity.INFO, text)


def failure_note(name: str, reason: str) -> QualityNote:
    """That a runtime failed and the reference answered."""
    text = f"The runtime '{name}' failed ({reason}): plain PyTorch answered instead."
    return QualityNote("runtime_failed", Severity.INFO, text)


def _reference(subject: Subject) -> Runtime:
    return runtimes.open_runtime(
        runtimes.REFERENCE, subject.architecture, subject.network, subject.device, subject.input_shape
    )


def _forget(device: str) -> None:
    """Give a GPU's memory back that torch keeps for later."""
    import torch

    if device.startswith("cuda") and torch.cuda.is_available():
        torch.cuda.empty_cache()
