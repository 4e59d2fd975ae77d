"""The training loop: AdamW, cosine schedule, a checkpoint every epoch from which a killed run goes on identically.

AdamW with learning rate 1e-3 and weight decay 0.01, and cosine decay, are the authors' settings (their 200 epochs and
batches of 8 are not: simulated data are plentiful, so fewer epochs over more patients do better).
"""

from __future__ import annotations

import csv
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medconv.config import CLASS_ORDER, Architecture
from medconv.network import build_network
from medconv.training.crops import LEVELS, CropSet
from medconv.training.loss import BalancedCrossEntropy
from medconv.training.metrics import balanced_accuracy
from medconv.types import FloatArray

LOG_FIELDS = ("epoch", "train_loss", "validation_nll", "validation_balanced_accuracy", "learning_rate", "seconds")


@dataclass(frozen=True)
class TrainSettings:
    """All that decides a training run besides the data. tau1 = 0 gives plain cross-entropy."""

    architecture: Architecture
    epochs: int = 12
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up_steps: int = 100
    tau1: float = 1.0
    shift_voxels: int = 2
    seed: int = 0


@dataclass(frozen=True)
class TrainedNetwork:
    """The epoch chosen on validation: weights, its number, and the training set's class frequencies."""

    state: dict[str, Tensor]
    epoch: int
    class_prior: tuple[float, ...]


def train(settings: TrainSettings, training: CropSet, validation: CropSet, run: Path) -> TrainedNetwork:
    """Train, or go on where `run` was left; the best epoch by the balanced likelihood of the validation set.

    run: folder for last.pt, best.pt and log.csv. Raises ValueError if it belongs to a run of other settings.
    """
    run.mkdir(parents=True, exist_ok=True)
    _claim(run, settings, len(training))
    prior = tuple(float(np.mean(training.classes == c)) for c in range(len(CLASS_ORDER)))
    torch.manual_seed(settings.seed)
    network = build_network(settings.architecture).to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = len(training) // settings.batch_size
    first, best_nll = _resume(run, network, optimizer)
    loss = BalancedCrossEntropy(prior, settings.tau1)
    for epoch in range(first, settings.epochs):
        started = time.perf_counter()
        train_loss = _one_epoch(network, optimizer, loss, training, settings, epoch, steps)
        logits = network_logits(network, validation)
        nll = balanced_nll(logits, validation.classes)
        if nll < best_nll:
            best_nll = nll
            _save(run / "best.pt", {"network": network.state_dict(), "epoch": epoch, "nll": nll})
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        _save(run / "last.pt", state | {"epoch": epoch, "best_nll": best_nll})
        accuracy = balanced_accuracy(validation.classes, logits)
        rate, seconds = optimizer.param_groups[0]["lr"], time.perf_counter() - started
        _log(run / "log.csv", (epoch, train_loss, nll, accuracy, rate, seconds))
    best = torch.load(run / "best.pt", weights_only=True)
    return TrainedNetwork(best["network"], best["epoch"], prior)


def network_logits(network: nn.Module, crops: CropSet, batch_size: int = 32) -> FloatArray:
    """Unadjusted logits of every crop, shape (n, classes), in evaluation mode."""
    network.eval()
    found = []
    with torch.inference_mode():
        for first in range(0, len(crops), batch_size):
            found.append(network(_to_input(crops.crops[first : first + batch_size])).numpy())
    return np.concatenate(found).astype(np.float64)


def balanced_nll(logits: FloatArray, classes: NDArray[np.int64]) -> float:
    """Mean over the classes of the mean −log p of the right class: likelihood with every class equally frequent."""
    per_case = F.cross_entropy(torch.tensor(logits), torch.tensor(classes), reduction="none").numpy()
    return float(np.mean([per_case[classes == c].mean() for c in np.unique(classes)]))


def learning_rate_factor(step: int, total: int, warm_up: int) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(total - warm_up, 1)))


def _one_epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, loss: nn.Module, training: CropSet,
    settings: TrainSettings, epoch: int, steps: int,
) -> float:  # fmt: skip
    """One pass in an order and with shifts that depend on seed and epoch only; returns the mean loss."""
    network.train()
    rng = np.random.default_rng([settings.seed, epoch])
    order = rng.permutation(len(training))[: steps * settings.batch_size].reshape(steps, -1)
    warm_up = min(settings.warm_up_steps, steps)
    total = 0.0
    for step, chosen in enumerate(order):
        factor = learning_rate_factor(epoch * steps + step, settings.epochs * steps, warm_up)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        crops = np.stack([augment(training.crops[i], rng, settings.shift_voxels) for i in chosen])
        value = loss(network(_to_input(crops)), torch.from_numpy(training.classes[chosen]))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        total += value.item()
    return total / steps


def augment(crop: NDArray[np.uint8], rng: np.random.Generator, shift_voxels: int) -> NDArray[np.uint8]:
    """A crop (C, z, y, x) mirrored left to right half of the time and shifted by up to some voxels along each axis."""
    if rng.random() < 0.5:
        crop = crop[..., ::-1]
    if shift_voxels == 0:
        return crop
    moved = np.zeros_like(crop)
    source, target = [slice(None)], [slice(None)]
    for shift in rng.integers(-shift_voxels, shift_voxels + 1, 3).tolist():
        source.append(slice(max(-shift, 0), -shift if shift > 0 else None))
        target.append(slice(max(shift, 0), shift if shift < 0 else None))
    moved[tuple(target)] = crop[tuple(source)]
    return moved


def _to_input(crops: NDArray[np.uint8]) -> Tensor:
    batch = torch.from_numpy(np.ascontiguousarray(crops)).float().div_(LEVELS)  # (N, C, z, y, x)
    return batch.contiguous(memory_format=torch.channels_last_3d)


def _resume(run: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Load the last checkpoint if there is one: the epoch to go on with, and the best figure so far."""
    if not (run / "last.pt").exists():
        return 0, math.inf
    state = torch.load(run / "last.pt", weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"] + 1, state["best_nll"]


def _save(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)


def _log(path: Path, row: tuple[float, ...]) -> None:
    """Append one epoch; an epoch that is done again after a kill replaces nothing and is told by its number."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        if new:
            writer.writerow(LOG_FIELDS)
        writer.writerow([f"{value:.6g}" for value in row])
    print("  ".join(f"{n} {v:.5g}" for n, v in zip(LOG_FIELDS, row, strict=True)), flush=True)


def _claim(run: Path, settings: TrainSettings, cases: int) -> None:
    text = json.dumps(asdict(settings) | {"cases": cases}, sort_keys=True)
    file = run / "settings.json"
    if file.exists() and file.read_text("utf-8") != text:
        raise ValueError(f"{run} holds a run of other settings; choose another folder")
    file.write_text(text, "utf-8")
