"""The network on a device: which device, which runtime, and the answers as everything else reads them.

Torch is imported inside functions only: Slicer loads this module before torch may be installed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medconv import runtimes
from medconv.config import ModelCard
from medconv.devices import choose_device
from medconv.runtimes import choice, memory, trial
from medconv.runtimes.engine import Engine, memory_note
from medconv.types import InputRefused, MissingRequirement, QualityNote, TScoreClass
from medconv.weights import find_model, load_network

if TYPE_CHECKING:
    from torch import nn


class LoadedModel:
    """Weights on a device, ready for one case after another."""

    def __init__(
        self, card: ModelCard, network: nn.Module, device: str = "cpu", runtime: str = runtimes.REFERENCE,
        say: choice.Say = lambda what: None,
    ) -> None:  # fmt: skip
        """runtime: a name of `runtimes.RUNTIMES`, "auto" for what was or is measured to be fastest here, "measure" to
        measure again. say: told before a measurement, which takes some seconds."""
        self.card = card
        network, device, notes = _on_device(network.eval(), device)
        subject = runtimes.Subject(card.architecture, network, device, input_shape(card))
        chosen = choice.choose(subject, card.sha256, runtime, say)
        self._notes = (*notes, *chosen.notes)
        self._engine = Engine(subject, chosen.runtime)

    @classmethod
    def load(
        cls, name_or_file: str | Path | None = None, device: str = "auto", runtime: str = runtimes.AUTO,
        say: choice.Say = lambda what: None,
    ) -> LoadedModel:  # fmt: skip
        """Find, verify and load weights (None: the first shipped) and put them on the device.

        Raises MissingRequirement (torch, weights, device or runtime not there) and UsageError (unknown name).
        """
        require_torch()
        chosen = choose_device(device)
        if runtime not in (runtimes.AUTO, runtimes.MEASURE):
            runtimes.check_name(runtime)
        card, path = find_model(name_or_file)
        return cls(card, load_network(card, path), chosen, runtime, say)

    @property
    def device(self) -> str:
        """The torch device that the last pass ran on."""
        return self._engine.device

    @property
    def runtime(self) -> str:
        """The runtime of the last pass."""
        return self._engine.name

    def warm_up(self) -> None:
        """One pass of a made-up crop: after it the next is as fast as all that follow."""
        self._engine(trial.trial_crops(input_shape(self.card), 1))

    def run(self, crop: NDArray[np.float32]) -> tuple[dict[TScoreClass, float], list[QualityNote]]:
        """Logits by class for one crop, shape (channels, z, y, x); if the GPU's memory is full, from the CPU."""
        logits, notes = self.run_batch(crop[np.newaxis])
        return dict(zip(self.card.class_order, logits[0].tolist(), strict=True)), notes

    def run_batch(self, crops: NDArray[np.float32]) -> tuple[NDArray[np.float64], list[QualityNote]]:
        """Logits, shape (n, classes), of crops, shape (n, channels, z, y, x); the CPU stands in as for `run`.

        Any n ≥ 1: as many crops go through at once as `runtimes.memory` allows.
        """
        logits, notes = self._engine(crops)
        if not np.isfinite(logits).all():
            raise InputRefused(
                "network_gave_no_number",
                "The network's output is not a number.",
                "Check the weights with 'medconv weights verify', and try --device cpu.",
            )
        return logits, [*self._notes, *notes]


def input_shape(card: ModelCard) -> tuple[int, int, int, int]:
    """(channels, z, y, x) of the crops that the weights take."""
    x, y, z = card.preprocessing.size_xyz
    return card.preprocessing.channels, z, y, x


def _on_device(network: nn.Module, device: str) -> tuple[nn.Module, str, list[QualityNote]]:
    """The network where it was asked for, or on the CPU with a note if the GPU's memory can't even hold its weights."""
    try:
        return network.to(device), device, []
    except RuntimeError as error:
        if device == "cpu" or not memory.is_full(error):
            raise
    return network.to("cpu"), "cpu", [memory_note(device)]


def require_torch() -> None:
    """Raise MissingRequirement if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingRequirement(
            "torch_missing",
            "PyTorch is not installed.",
            "In Slicer: install the PyTorch extension and let it install PyTorch. Elsewhere: pip install torch",
        )
