"""Which cases an epoch shows, how they are varied, and as which channels: all from (seed, epoch, position) alone.

Nothing here keeps a state, so that a run that was killed goes on with the very same crops. `resample`, `balaug` and
`windows` are words of the paper's Table II that it does not define: what stands here is our reading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from medconv.types import UsageError

NATURAL, RESAMPLE, BALAUG = "natural", "resample", "balaug"
SAMPLINGS = (NATURAL, RESAMPLE, BALAUG)
LEVELS = np.float32(255.0)  # crops are stored as 8 bits over their window
Window = tuple[float, float]
# Width and level as radiologists set them: brain 80/40, soft tissue 400/40, bone 1800/400.
WINDOWS_HU: tuple[Window, ...] = ((0.0, 80.0), (-160.0, 240.0), (-500.0, 1300.0))


@dataclass(frozen=True)
class EpochPlan:
    """indices: (n,) cases in the order shown. augmented: (n,) True where the crop may be varied."""

    indices: NDArray[np.int64]
    augmented: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Augmentation:
    """How a crop is varied; every 0 or False switches its part off.

    mirror: left and right changed half of the time. shift_voxels, rotation_degrees: up to that much along or about each
    axis. scaling: up to ± this share. noise_hu: SD of white noise. gain, offset_hu: SD of a factor (around 1) on the HU
    and of a shift in HU, as between scanners (calibration error −5.6 ± 9.2 %, Skornitzke 2022). Density is the signal
    here: what gain and offset hide, no network can read.
    """

    mirror: bool = True
    shift_voxels: int = 2
    rotation_degrees: float = 0.0
    scaling: float = 0.0
    noise_hu: float = 0.0
    gain: float = 0.0
    offset_hu: float = 0.0


NO_AUGMENTATION = Augmentation(mirror=False, shift_voxels=0)


def is_balanced(sampling: str) -> bool:
    """True if every class is shown equally often, so that the network learns the class-balanced posterior."""
    return sampling in (RESAMPLE, BALAUG)


def plan_epoch(sampling: str, classes: NDArray[np.int64], seed: int, epoch: int) -> EpochPlan:
    """What epoch number `epoch` shows of cases with these class indices, (n,).

    natural: everyone once. resample: n draws with replacement, classes equally likely. balaug: everyone once, and
    cases of the smaller classes again until all classes are as large as the largest; only the repetitions are varied.
    Raises UsageError for another name.
    """
    rng = np.random.default_rng([seed, epoch])
    if sampling == NATURAL:
        return EpochPlan(rng.permutation(len(classes)), np.ones(len(classes), bool))
    members = [np.flatnonzero(classes == c) for c in np.unique(classes)]
    if sampling == RESAMPLE:
        chosen = [members[c][rng.integers(len(members[c]))] for c in rng.integers(len(members), size=len(classes))]
        return EpochPlan(np.array(chosen, np.int64), np.ones(len(classes), bool))
    if sampling != BALAUG:
        raise UsageError("unknown_sampling", f"There is no sampling '{sampling}'.", f"Choose: {', '.join(SAMPLINGS)}.")
    largest = max(len(m) for m in members)
    again = np.concatenate([_repeated(m, largest - len(m), rng) for m in members])
    indices = np.concatenate([np.arange(len(classes)), again])
    order = rng.permutation(len(indices))
    return EpochPlan(indices[order], order >= len(classes))


def batch(
    crops: NDArray[np.uint8], plan: EpochPlan, positions: Sequence[int] | NDArray[np.int64],
    augmentation: Augmentation, window_hu: Window, seed: int, epoch: int,
) -> NDArray[np.float32]:  # fmt: skip
    """The crops (N, C, z, y, x), 0 to 1, at some positions of an epoch's plan, varied where the plan allows it.

    crops: (n, C, z, y, x), 0 to 255 over `window_hu`. Each position has its own random stream, so that any process may
    make any part of an epoch.
    """
    made = []
    for position in positions:
        crop = crops[plan.indices[position]]
        if plan.augmented[position]:
            rng = np.random.default_rng([seed, epoch, int(position), 1])
            made.append(augment(crop, augmentation, window_hu, rng))
        else:
            made.append(crop.astype(np.float32) / LEVELS)
    return np.stack(made)


def augment(
    crop: NDArray[np.uint8], settings: Augmentation, window_hu: Window, rng: np.random.Generator
) -> NDArray[np.float32]:
    """One varied crop (C, z, y, x), 0 to 1. Every part draws its numbers whether it is on or off: switching one off
    leaves the others as they were. Voxels at 0 (outside L1) stay 0 under gain, offset and noise.
    """
    mirrored = rng.random() < 0.5 and settings.mirror
    shift = rng.integers(-settings.shift_voxels, settings.shift_voxels + 1, 3)
    degrees = rng.uniform(-1.0, 1.0, 3) * settings.rotation_degrees
    factor = 1.0 + rng.uniform(-1.0, 1.0) * settings.scaling
    gain, offset = 1.0 + rng.normal() * settings.gain, rng.normal() * settings.offset_hu
    if mirrored:
        crop = crop[..., ::-1]
    if settings.rotation_degrees or settings.scaling:
        varied = _moved(crop.astype(np.float32), _rotation(degrees) / factor, shift)
    else:
        varied = shifted(crop, shift).astype(np.float32)
    varied /= LEVELS
    low, width = window_hu[0], window_hu[1] - window_hu[0]
    if settings.gain or settings.offset_hu or settings.noise_hu:
        inside = varied > 0
        hu = (low + width * varied[inside]) * gain + offset
        if settings.noise_hu:
            hu += rng.standard_normal(hu.shape, np.float32) * settings.noise_hu
        varied[inside] = np.clip((hu - low) / width, 0.0, 1.0)
    return varied


def shifted(crop: NDArray[np.uint8], shift_zyx: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A crop (C, z, y, x) moved by whole voxels; what comes in is 0."""
    moved = np.zeros_like(crop)
    source, target = [slice(None)], [slice(None)]
    for shift in shift_zyx.tolist():
        source.append(slice(max(-shift, 0), -shift if shift > 0 else None))
        target.append(slice(max(shift, 0), shift if shift < 0 else None))
    moved[tuple(target)] = crop[tuple(source)]
    return moved


def covering_window(windows_hu: Sequence[Window] = WINDOWS_HU) -> Window:
    """The window in which crops must be stored so that these windows can be cut from them."""
    return min(low for low, _ in windows_hu), max(high for _, high in windows_hu)


def window_channels(
    crops: NDArray[np.float32], stored_hu: Window, windows_hu: Sequence[Window] = WINDOWS_HU
) -> NDArray[np.float32]:
    """Grey crops (N, 1, z, y, x), 0 to 1 over `stored_hu`, as one channel a window: (N, windows, z, y, x), 0 to 1.

    The usual stored window, −200 to 800 HU, lacks what a bone window shows: store crops over `covering_window()`.
    Raises UsageError if a window reaches beyond what is stored: clipped values would pass for tissue.
    """
    if crops.shape[1] != 1:
        raise UsageError("windows_need_grey", f"Windows are cut from one channel, got {crops.shape[1]}.", "Use 1.")
    low, high = covering_window(windows_hu)
    if low < stored_hu[0] or high > stored_hu[1]:
        raise UsageError(
            "window_not_stored",
            f"The windows need {low:g} to {high:g} HU, the crops hold {stored_hu[0]:g} to {stored_hu[1]:g} HU.",
            f"Make the crops with the window {low:g} to {high:g} HU.",
        )
    hu = stored_hu[0] + (stored_hu[1] - stored_hu[0]) * crops
    return np.concatenate([np.clip((hu - a) / (b - a), 0.0, 1.0) for a, b in windows_hu], axis=1).astype(np.float32)


def _repeated(members: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` of the members, each as often as any other or once more."""
    rounds = [rng.permutation(members) for _ in range(math.ceil(count / len(members)))]
    return np.concatenate([*rounds, members[:0]])[:count]


def _rotation(degrees_zyx: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotations about z, then y, then x, as one matrix on (z, y, x)."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees_zyx)):
        one, other = (i for i in range(3) if i != axis)
        turn = np.eye(3)
        turn[one, one] = turn[other, other] = math.cos(angle)
        turn[one, other], turn[other, one] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    return matrix


def _moved(crop: NDArray[np.float32], matrix: NDArray[np.float64], shift: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rotated and scaled about the crop's centre and shifted, in one linear interpolation; outside is 0."""
    half = np.maximum((np.array(crop.shape[1:]) - 1) / 2.0, 0.5)
    # Torch counts from −1 to 1 and in x, y, z; a voxel of the result at v comes from matrix @ (v − shift).
    linear = matrix * half / half[:, None]
    theta = np.column_stack([linear[::-1, ::-1], -(matrix @ shift / half)[::-1]])
    whole = torch.from_numpy(crop)[None]  # (1, C, z, y, x)
    grid = F.affine_grid(torch.from_numpy(theta)[None].float(), list(whole.shape), align_corners=True)
    return F.grid_sample(whole, grid, align_corners=True)[0].numpy()
