"""What the demonstration segmenter is trained for, Dice and cross-entropy, and Dice while it trains."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medconv.training.vertebrae.vertebra_segmenter_data import LABEL_NAMES, Normalization, TrainingVolume
from medconv.training.vertebrae.vertebra_segmenter_folder import PATCH_ZYX
from medconv.training.vertebrae.vertebra_segmenter_network import outputs_below_full_size

SUPERVISED_SCALES = (1.0, 0.5, 0.25)  # weights of the loss, from the finest output down
FOREGROUND_WEIGHT = 4.0
BACKGROUND_SHARE = 0.15


def supervised_loss(
    outputs: Sequence[Tensor], labels: Tensor, rng: np.random.Generator, first_level: int = 0
) -> Tensor:
    """Dice and cross-entropy at several resolutions. labels: (N, z, y, x), -1 where nothing is shown.

    first_level: the first output's resolution, 0 full, 1 half.
    """
    total = outputs[0].new_zeros(())
    for level, (output, weight) in enumerate(zip(outputs, SUPERVISED_SCALES, strict=False)):
        step = 2 ** (level + first_level)
        target = labels[:, ::step, ::step, ::step].reshape(-1)
        rows = output.permute(0, 2, 3, 4, 1).reshape(-1, output.shape[1])  # (M, C)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        # All structures, but only some of the background: softmax over every voxel would cost as much as the network.
        background_share = BACKGROUND_SHARE if step == 1 else 1.0
        seen = torch.rand(target.shape, generator=generator) < background_share
        chosen = ((target > 0) | ((target == 0) & seen)).nonzero()[:, 0]
        target = target[chosen]
        share = torch.where(target > 0, 1.0, 1.0 / background_share)
        total = total + weight * dice_and_cross_entropy(rows.index_select(0, chosen), target, share)
    return total / sum(SUPERVISED_SCALES)


def dice_and_cross_entropy(logits: Tensor, target: Tensor, share: Tensor) -> Tensor:
    """Cross-entropy plus 1 - mean soft Dice of the structures that are shown.

    logits: (M, C); target: (M,); share: (M,), how many voxels of the image each row stands for.
    """
    classes = logits.shape[1]
    log_p = F.log_softmax(logits, dim=1)
    own = log_p.gather(1, target[:, None])[:, 0]
    weights = torch.where(target > 0, FOREGROUND_WEIGHT, 1.0) * share
    cross_entropy = -(weights * own).sum() / weights.sum().clamp(min=1.0)
    overlap = torch.zeros(classes).index_add(0, target, own.exp() * share)
    count = torch.zeros(classes).index_add(0, target, share)
    dice = (2.0 * overlap + 1.0) / ((log_p.exp() * share[:, None]).sum(0) + count + 1.0)
    present = count[1:] > 8
    return cross_entropy + ((1.0 - dice[1:][present]).mean() if present.any() else 0.0)


def patch_dice(
    network: nn.Module, volumes: Sequence[TrainingVolume], norm: Normalization, *, coarse: bool
) -> dict[str, float]:
    """Dice per structure over one undisturbed patch of each volume, round its middle; coarse: at half resolution."""
    network.eval()
    both, either = np.zeros(len(LABEL_NAMES)), np.zeros(len(LABEL_NAMES))
    for volume in volumes:
        cut = tuple(slice((n - p) // 2, (n - p) // 2 + p) for n, p in zip(volume.hu_zyx.shape, PATCH_ZYX, strict=True))
        image = norm.apply(volume.hu_zyx[cut])[None, None].contiguous(memory_format=torch.channels_last_3d)
        with torch.inference_mode():
            outputs = outputs_below_full_size(network, image) if coarse else network(image)
        found = outputs[0][0].argmax(0).numpy()
        step = 2 if coarse else 1
        true = volume.labels_zyx[cut][::step, ::step, ::step]
        for label in range(len(LABEL_NAMES)):
            both[label] += ((found == label) & (true == label)).sum()
            either[label] += (found == label).sum() + (true == label).sum()
    return {
        name: float(2.0 * both[i] / either[i]) if either[i] else math.nan for i, name in enumerate(LABEL_NAMES) if i
    }
