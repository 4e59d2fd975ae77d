"""What the demonstration segmenter learns from: simulated trunks at 3 mm, and how a patch is cut and disturbed.

Volumes are kept as nnU-Net's NibabelIOWithReorient hands them to the network: axes (z up, y forwards, x to the right).
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medconv.simulate import SimulatedCase, simulate_lumbar_ct
from medconv.simulate.scan import KERNEL_SHARES, KVP_SHARES, PHASE_SHARES

SPACING_MM = 3.0
LABEL_NAMES = (
    "background", "vertebrae_T10", "vertebrae_T11", "vertebrae_T12", "vertebrae_L1", "vertebrae_L2", "vertebrae_L3",
    "vertebrae_L4", "vertebrae_L5", "sacrum", "rib_left_11", "rib_left_12", "rib_right_11", "rib_right_12", "liver",
)  # fmt: skip
# TotalSegmentator's number (as the simulator labels) → ours; S1 is part of the sacrum here.
FROM_SIMULATED = {
    34: 1, 33: 2, 32: 3, 31: 4, 30: 5, 29: 6, 28: 7, 27: 8, 25: 9, 26: 9, 102: 10, 103: 11, 114: 12, 115: 13, 5: 14,
}  # fmt: skip
SHOWN_MM = (-300.0, 215.0)  # patches are cut from the whole; a real CT ends anywhere, see `Disturbance`
CACHE_VERSION = 1


@dataclass(frozen=True)
class TrainingVolume:
    """`hu_zyx` (int16) and `labels_zyx` (uint8, places in LABEL_NAMES), axes up, forwards, to the right, 3 mm."""

    hu_zyx: NDArray[np.int16]
    labels_zyx: NDArray[np.uint8]


def simulate_case(seed: int) -> SimulatedCase:
    """A trunk at 3 mm, scanned in a random way that follows from the seed."""
    rng = np.random.default_rng([seed, 1])
    return simulate_lumbar_ct(
        seed,
        kvp=float(rng.choice(list(KVP_SHARES), p=list(KVP_SHARES.values()))),
        kernel=str(rng.choice(list(KERNEL_SHARES), p=list(KERNEL_SHARES.values()))),
        phase=str(rng.choice(list(PHASE_SHARES), p=list(PHASE_SHARES.values()))),
        in_plane_spacing_mm=SPACING_MM,
        slice_thickness_mm=SPACING_MM,
        field_of_view_mm=SHOWN_MM,
    )


def as_training_volume(case: SimulatedCase) -> TrainingVolume:
    """Turned from LPS to the reader's axes, with the network's own labels."""
    table = np.zeros(256, np.uint8)
    table[list(FROM_SIMULATED)] = list(FROM_SIMULATED.values())
    turned = (slice(None), slice(None, None, -1), slice(None, None, -1))
    hu = np.ascontiguousarray(case.ct.array_zyx[turned])
    return TrainingVolume(hu, np.ascontiguousarray(table[case.labels_zyx[turned]]))


def load_volumes(cache: Path, first_seed: int, count: int, processes: int) -> list[TrainingVolume]:
    """The volumes of `count` seeds, simulated where the cache folder does not hold them yet."""
    cache.mkdir(parents=True, exist_ok=True)
    seeds = range(first_seed, first_seed + count)
    files = [cache / f"trunk-v{CACHE_VERSION}-{seed}.npz" for seed in seeds]
    missing = [(seed, file) for seed, file in zip(seeds, files, strict=True) if not file.is_file()]
    if missing:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            list(pool.map(_write_case, *zip(*missing, strict=True)))
    return [_read_case(file) for file in files]


def _write_case(seed: int, file: Path) -> None:
    volume = as_training_volume(simulate_case(seed))
    partial = file.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as stream:
        np.savez_compressed(stream, hu=volume.hu_zyx, labels=volume.labels_zyx)
    partial.replace(file)


def _read_case(file: Path) -> TrainingVolume:
    with np.load(file, allow_pickle=False) as stored:
        return TrainingVolume(stored["hu"], stored["labels"])


@dataclass(frozen=True)
class Disturbance:
    """How strongly a patch is disturbed, so that what is learnt does not hang on the simulator's looks.

    Never mirrored left to right: ribs have sides. Intensities are in units of the normalised image (about 150 HU).
    """

    rotation_deg: float = 15.0
    scale: float = 0.15
    stretch: float = 0.05
    shift_across: int = 20
    reach_beyond: float = 38.0
    cut_share: float = 0.5
    shortest_cut: int = 34
    gain: float = 0.18
    offset: float = 0.25
    gamma: float = 0.2
    noise: float = 0.3
    blur_share: float = 0.4
    blur_sigma: float = 1.1
    thick_slice_share: float = 0.15
    soft_tissue: float = 0.45


@dataclass(frozen=True)
class Normalization:
    """nnU-Net's CTNormalization, from the foreground's HU."""

    mean: float
    std: float
    lowest: float
    highest: float

    @staticmethod
    def of(volumes: list[TrainingVolume]) -> tuple[Normalization, dict[str, float]]:
        """And the same figures as plans.json names them."""
        hu = np.concatenate([v.hu_zyx[v.labels_zyx > 0] for v in volumes]).astype(np.float32)
        lowest, highest = (float(v) for v in np.percentile(hu, [0.5, 99.5]))
        named = {
            "max": float(hu.max()), "mean": float(hu.mean(dtype=np.float64)), "median": float(np.median(hu)),
            "min": float(hu.min()), "percentile_00_5": lowest, "percentile_99_5": highest,
            "std": float(hu.std(dtype=np.float64)),
        }  # fmt: skip
        return Normalization(named["mean"], named["std"], lowest, highest), named

    def apply(self, hu: NDArray[Any]) -> Tensor:
        return torch.from_numpy((np.clip(hu, self.lowest, self.highest).astype(np.float32) - self.mean) / self.std)


def draw_patch(
    volume: TrainingVolume, norm: Normalization, size_zyx: tuple[int, int, int], rng: np.random.Generator,
    how: Disturbance,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A patch (1, z, y, x) and its labels (z, y, x) of int64, -1 where nothing is shown."""
    grid, inside = _sampling_grid(volume.hu_zyx.shape, size_zyx, rng, how)
    image = norm.apply(volume.hu_zyx)[None, None]
    image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)[0]
    labels = torch.from_numpy(volume.labels_zyx)[None, None].float()
    labels = F.grid_sample(labels, grid, mode="nearest", padding_mode="zeros", align_corners=True)[0, 0].long()
    image = disturb(image, rng, how)
    shown = inside & _cut(size_zyx, rng, how)
    # nnU-Net fills up what is smaller than its patch with 0 of the normalised image.
    return torch.where(shown, image, torch.zeros(())), torch.where(shown, labels, torch.full_like(labels, -1))


def _sampling_grid(
    shape: tuple[int, ...], size: tuple[int, int, int], rng: np.random.Generator, how: Disturbance
) -> tuple[Tensor, Tensor]:
    """Positions in the volume for `grid_sample`, (1, z, y, x, 3), and where they lie within it."""
    extent = np.array(shape) - 1.0
    center = extent / 2.0
    spread = max(extent[0] / 2.0 - 0.5 * size[0], 0.0) + how.reach_beyond
    center[0] += rng.uniform(-spread, spread)
    # A window may lie anywhere that nnU-Net's sliding window puts it, and a little beyond.
    spare = (extent[1:] + 1.0 - size[1:]) / 2.0
    center[1:] += np.clip(rng.normal(0.0, 0.45, 2), -1.0, 1.0) * np.minimum(spare + 4.0, how.shift_across)
    a, b, c = np.radians(how.rotation_deg * np.clip(rng.normal(0.0, 0.5, 3), -1.0, 1.0))
    scale = np.exp(rng.uniform(-how.scale, how.scale) + rng.uniform(-how.stretch, how.stretch, 3))
    matrix = torch.from_numpy((_turn(a, 0, 1) @ _turn(b, 0, 2) @ _turn(c, 1, 2)) * scale).float()
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2.0 for n in size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) @ matrix.T
    points = 2.0 * (points + torch.from_numpy(center).float()) / torch.from_numpy(extent).float() - 1.0
    return points.flip(-1)[None], (points.abs() <= 1.0).all(-1)  # grid_sample wants x first


def _turn(angle: float, first: int, second: int) -> NDArray[np.float64]:
    matrix = np.eye(3)
    matrix[[first, second], [first, second]] = math.cos(angle)
    matrix[first, second], matrix[second, first] = math.sin(angle), -math.sin(angle)
    return matrix


def _cut(size: tuple[int, int, int], rng: np.random.Generator, how: Disturbance) -> Tensor:
    """True where the field of view reaches; it may begin and end within the patch."""
    shown = torch.ones(size, dtype=torch.bool)
    if rng.random() < how.cut_share:
        height = int(rng.integers(how.shortest_cut, size[0] + 1))
        start = int(rng.integers(0, size[0] - height + 1))
        shown[:start] = False
        shown[start + height :] = False
    return shown


def disturb(image: Tensor, rng: np.random.Generator, how: Disturbance) -> Tensor:
    """Intensities of a patch (1, z, y, x) as another scanner and another abdomen would give them."""
    size = image.shape[1:]
    soft = torch.sigmoid((image + 2.6) * 8.0) * torch.sigmoid((0.35 - image) * 8.0)  # neither air nor bone
    for cells, strength in (((6, 4, 4), how.soft_tissue), ((20, 12, 12), 0.6 * how.soft_tissue)):
        coarse = torch.from_numpy(rng.standard_normal((1, 1, *cells)).astype(np.float32))
        field = F.interpolate(coarse, size=size, mode="trilinear", align_corners=True)[0]
        image = image + soft * field * float(rng.uniform(0.0, strength))
    if rng.random() < how.blur_share:
        image = blur(image, tuple(float(s) for s in rng.uniform(0.0, how.blur_sigma, 3)))
    if rng.random() < how.thick_slice_share:
        thick = F.avg_pool3d(image[None], (2, 1, 1))
        image = F.interpolate(thick, size=size, mode="trilinear", align_corners=False)[0]
    image = image * float(1.0 + rng.uniform(-how.gain, how.gain)) + float(rng.uniform(-how.offset, how.offset))
    power = float(np.exp(rng.uniform(-how.gamma, how.gamma)))
    lowest, span = image.min(), (image.max() - image.min()).clamp(min=1e-3)
    image = ((image - lowest) / span) ** power * span + lowest
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    return image + torch.randn(image.shape, generator=generator) * float(rng.uniform(0.0, how.noise))


def blur(image: Tensor, sigma_zyx: tuple[float, ...]) -> Tensor:
    """Gaussian blur of (1, z, y, x), one sigma in voxels for each axis."""
    for axis, sigma in enumerate(sigma_zyx):
        if sigma < 0.2:
            continue
        reach = math.ceil(2.5 * sigma)
        kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = 2 * reach + 1
        padding = [0, 0, 0]
        padding[axis] = reach
        image = F.conv3d(image[None], (kernel / kernel.sum()).reshape(shape), padding=padding)[0]
    return image
