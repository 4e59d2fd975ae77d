"""The network on a device: which device, in what precision, and what happens when its memory is full.

Torch is imported inside functions only: Slicer loads this module before torch may be installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medconv.config import ModelCard
from medconv.devices import choose_device
from medconv.types import InputRefused, MissingRequirement, QualityNote, Severity, TScoreClass
from medconv.weights import find_model, load_network

if TYPE_CHECKING:
    import torch
    from torch import nn

SLIM_WIDTH = 16


class LoadedModel:
    """Weights on a device, ready for one case after another."""

    def __init__(self, card: ModelCard, network: nn.Module, device: str = "cpu") -> None:
        self.card = card
        self.device = device
        self._network = network.to(device).eval()

    @classmethod
    def load(cls, name_or_file: str | Path | None = None, device: str = "auto") -> LoadedModel:
        """Find, verify and load weights (None: the first shipped) and put them on the device.

        Raises MissingRequirement (torch, weights or device not there) and UsageError (unknown device).
        """
        require_torch()
        chosen = choose_device(device)
        card, path = find_model(name_or_file)
        return cls(card, load_network(card, path), chosen)

    def run(self, crop: NDArray[np.float32]) -> tuple[dict[TScoreClass, float], list[QualityNote]]:
        """Logits by class for one crop, shape (channels, z, y, x); if the GPU's memory is full, from the CPU."""
        logits, notes = self.run_batch(crop[np.newaxis])
        return dict(zip(self.card.class_order, logits[0].tolist(), strict=True)), notes

    def run_batch(self, crops: NDArray[np.float32]) -> tuple[NDArray[np.float64], list[QualityNote]]:
        """Logits, shape (n, classes), of crops, shape (n, channels, z, y, x); the CPU stands in as for `run`."""
        import torch

        notes = []
        batch = torch.from_numpy(np.ascontiguousarray(crops))
        try:
            logits = self._forward(batch)
        except torch.OutOfMemoryError:
            if self.device == "cpu":
                raise
            notes.append(
                QualityNote(
                    "gpu_memory_full", Severity.INFO, f"The memory of '{self.device}' was full: MedConv ran on the CPU."
                )
            )
            self._move_to_cpu()
            logits = self._forward(batch)
        if not np.isfinite(logits).all():
            raise InputRefused(
                "network_gave_no_number",
                "The network's output is not a number.",
                "Check the weights with 'medconv weights verify', and try --device cpu.",
            )
        return logits, notes

    def _forward(self, batch: torch.Tensor) -> NDArray[np.float64]:
        import torch

        with torch.inference_mode(), self._precision(), self._threads():
            logits = self._network(batch.to(self.device))  # (n, classes)
        return np.asarray(logits.float().cpu().numpy(), np.float64)

    def _precision(self) -> Any:
        """Half precision on CUDA; float32 elsewhere (bfloat16 was slower on the CPUs measured)."""
        import torch

        return torch.autocast("cuda", dtype=torch.float16) if self.device.startswith("cuda") else nullcontext()

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """One thread for a slim network on the CPU.

        Its layers are so small that threads only wait for each other: on two cores that other programs keep busy, a
        pass of width 16 took 1.1 s with two threads and 11 ms with one.
        """
        import torch

        before = torch.get_num_threads()
        slim = self.device == "cpu" and self.card.architecture.width <= SLIM_WIDTH
        torch.set_num_threads(1 if slim else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _move_to_cpu(self) -> None:
        import torch

        self._network = self._network.to("cpu")
        self.device = "cpu"
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def require_torch() -> None:
    """Raise MissingRequirement if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingRequirement(
            "torch_missing",
            "PyTorch is not installed.",
            "In Slicer: install the PyTorch extension and let it install PyTorch. Elsewhere: pip install torch",
        )
