"""From the settings of a run to its parts: network, head, optimiser, and the network's input from crops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medconv.config import Architecture
from medconv.network import STAGES, ResNet3D
from medconv.training.cohorts.crops import CropSet
from medconv.training.parts import backbones, heads, sampling
from medconv.training.parts.class_losses import LOSSES, LossSettings
from medconv.training.parts.heads import Head, HeadSettings, Targets
from medconv.training.parts.inflation import load_pretrained
from medconv.training.parts.optimisers import NAMES, Optimiser, OptimiserSettings, make_optimiser
from medconv.training.runs.run_settings import RunSettings, one_of
from medconv.types import FloatArray, UsageError


@dataclass(frozen=True)
class Parts:
    """network: crops to outputs (N, k). head: how outputs are trained and read."""

    network: nn.Module
    head: Head


def check_names(settings: RunSettings) -> None:
    """Raise UsageError for a part that does not exist or does not go with another."""
    spec = backbones.find(settings.backbone)
    one_of("head", settings.head, heads.HEADS)
    one_of("loss", settings.loss, LOSSES)
    one_of("sampling", settings.sampling, sampling.SAMPLINGS)
    one_of("optimiser", settings.optimiser, NAMES)
    if settings.texture and not spec.packable:
        raise UsageError("texture_not_here", f"'{spec.name}' has no texture channel.", "Take one of our own ResNets.")
    if settings.windows and settings.preprocessing.channels != 1:
        raise UsageError(
            "windows_need_grey",
            f"Windows are cut from one channel, the settings ask for {settings.preprocessing.channels}.",
            "Leave channels at 1; the windows become the channels.",
        )
    if settings.ema_decay and settings.optimiser == "schedule_free":
        raise UsageError(
            "average_twice",
            "The schedule-free optimiser is an average of weights already.",
            "Leave out --ema, or take --optimiser adamw.",
        )


def build_parts(settings: RunSettings, class_counts: tuple[int, ...]) -> Parts:
    """Network with fresh weights (from torch's global random state) and head, for a training set of these counts."""
    head = heads.build(head_settings(settings), class_counts, sampling.is_balanced(settings.sampling))
    channels = len(sampling.WINDOWS_HU) if settings.windows else settings.preprocessing.channels
    if settings.texture:
        block, depths = STAGES[backbones.find(settings.backbone).name]
        network: nn.Module = ResNet3D(block, depths, settings.width, channels, head.outputs, texture=True)
    else:
        x, y, z = settings.preprocessing.size_xyz
        spec = backbones.find(settings.backbone)
        width = settings.width if spec.scales else 64
        network = backbones.build(
            spec.name, width=width, in_channels=channels, outputs=head.outputs, input_size_zyx=(z, y, x)
        )
    return Parts(network, head)


def start_from_pretrained(settings: RunSettings, network: nn.Module) -> str:
    """Put the settings' pretrained weights into the network; returns what became of them, "" without any."""
    return str(load_pretrained(network, Path(settings.pretrained))) if settings.pretrained else ""


def build_optimiser(
    settings: RunSettings, network: nn.Module, steps_per_epoch: int, scaler: torch.amp.GradScaler
) -> Optimiser:
    """The optimiser of all parameters for the whole run."""
    wanted = OptimiserSettings(
        settings.optimiser, settings.learning_rate, settings.weight_decay, min(settings.warm_up, steps_per_epoch)
    )
    total = steps_per_epoch * settings.epochs
    return make_optimiser(wanted, network.parameters(), total_steps=total, network=network, scaler=scaler)


def head_settings(settings: RunSettings) -> HeadSettings:
    """The head's own settings."""
    loss = LossSettings(settings.loss, tau1=settings.tau1, beta=settings.beta, gamma=settings.gamma)
    return HeadSettings(settings.head, loss, settings.class_share)


def architecture(settings: RunSettings, head: Head) -> Architecture | None:
    """What a weight file says of the network; None if `medconv.network` could not run it."""
    spec = backbones.find(settings.backbone)
    if not spec.packable or settings.windows or head.reading is None:
        return None
    channels = settings.preprocessing.channels
    return Architecture(spec.name, settings.width, channels, head=head.reading, texture=settings.texture)


def training_input(
    settings: RunSettings, cases: CropSet, plan: sampling.EpochPlan, positions: NDArray[np.int64], epoch: int,
    device: str,
) -> Tensor:  # fmt: skip
    """The varied crops at some positions of an epoch's plan, as the network's input."""
    window = settings.preprocessing.window_hu
    made = sampling.batch(cases.crops, plan, positions, settings.augmentation, window, settings.seed, epoch)
    return _to_network(made, settings, device)


def reading_input(settings: RunSettings, cases: CropSet, chosen: NDArray[np.int64], device: str) -> Tensor:
    """The chosen crops as they are, as the network's input."""
    return _to_network(np.asarray(cases.crops[chosen], np.float32) / sampling.LEVELS, settings, device)


def targets_of(cases: CropSet, soft: FloatArray | None, chosen: NDArray[np.int64], device: str) -> Targets:
    """Truth of the chosen cases."""
    return Targets(
        torch.from_numpy(cases.classes[chosen]).to(device),
        torch.from_numpy(cases.t_scores[chosen].astype(np.float32)).to(device),
        None if soft is None else torch.from_numpy(soft[chosen].astype(np.float32)).to(device),
    )


def _to_network(crops: NDArray[np.float32], settings: RunSettings, device: str) -> Tensor:
    """Crops (N, C, z, y, x), 0 to 1, with the network's channels and on its device."""
    if settings.windows:
        crops = sampling.window_channels(crops, settings.preprocessing.window_hu)
    batch = torch.from_numpy(np.ascontiguousarray(crops)).to(device, non_blocking=True)
    if batch.shape[1] == 1 and settings.preprocessing.channels > 1:
        batch = batch.expand(-1, settings.preprocessing.channels, -1, -1, -1)
    return batch.contiguous(memory_format=torch.channels_last_3d)
