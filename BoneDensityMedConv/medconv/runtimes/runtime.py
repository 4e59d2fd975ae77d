"""What a runtime is: a network that is ready to turn batches into logits, and what it was opened for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medconv.config import Architecture
from medconv.runtimes import threads

if TYPE_CHECKING:
    from torch import Tensor, nn

Shape4 = tuple[int, int, int, int]


class CannotRun(Exception):
    """This runtime can't be opened for this network, or not run on this batch; the reference can."""


@dataclass(frozen=True)
class Subject:
    """What a runtime is opened for: `network` in evaluation mode, crops of `input_shape` (channels, z, y, x)."""

    architecture: Architecture
    network: nn.Module
    device: str
    input_shape: Shape4

    @property
    def threads(self) -> int:
        return threads.thread_count(self.architecture, self.device)


class Runtime:
    """A network ready on a device: call it with crops, get logits."""

    def __init__(self, name: str, subject: Subject, answer: Callable[[Tensor], Tensor], is_half: bool = False) -> None:
        self.name, self.device, self.input_shape = name, subject.device, subject.input_shape
        self.is_half = is_half
        self.threads = subject.threads
        self._answer = answer

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits (n, outputs) of crops (n, channels, z, y, x), from 0 to 1.

        May raise whatever the runtime's own code raises; torch.OutOfMemoryError and MemoryError if memory is full.
        """
        import torch

        crops = torch.from_numpy(np.ascontiguousarray(batch, np.float32))
        with torch.inference_mode(), threads.limited_to(self.threads):
            logits = self._answer(crops)  # (n, outputs)
        return np.asarray(logits.float().cpu().numpy(), np.float64)
