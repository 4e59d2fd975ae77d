"""The spine in one picture, with the name of every vertebra that was found beside it.

The picture follows the spine: its plane runs through the centres of all vertebral bodies, so that a scoliosis does not
leave it. Along the spine's own bend the picture is stretched by a little; heights and depths are true. Radiological
display, as in `planes`: in the sagittal picture anterior is left, in the coronal one the patient's right is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.grid import cut_ct, index3, to_image
from medconv.planes import PLANES, blend, grey_levels
from medconv.segmentation_comparison import structure_mask
from medconv.types import BoolArray, CTVolume, FloatArray, ImageGeometry, L1Mask, SpineSegmentation
from medconv.vertebrae import LAST_RIBS, LEAST_VERTEBRA_ML, ORDER, SACRUM
from medconv.vertebral_body import core_center

MAXIMUM_ROWS = 640
FINEST_PIXEL_MM = 0.5
ABOVE_BELOW_MM = 15.0
SACRUM_SHOWN_MM = 60.0
BESIDE_MM: Mapping[str, tuple[float, float]] = {"sagittal": (95.0, 75.0), "coronal": (95.0, 85.0)}  # left, right
FRAGMENT_FRACTION = 0.4  # smaller than this share of the usual vertebra: cut off by the border, no guide for the plane
CENTRE_VOXEL_MM = 1.5
STRAY_PERCENT = 1.0  # so few voxels far away are strays, and do not stretch the picture
NAME_GAP_PX = 9
NAME_HEIGHT_PX = 16


@dataclass(frozen=True)
class NamedLevel:
    """How one found structure is shown. `name` is the segmenter's; `text` stands in the picture."""

    name: str
    text: str
    is_target: bool = False
    is_doubtful: bool = False


@dataclass(frozen=True)
class Mark:
    """A name and where it stands: its right end at (x, y), a line from there to (to_x, to_y), all in pixels."""

    level: NamedLevel
    x: float
    y: float
    to_x: float
    to_y: float


@dataclass(frozen=True)
class LevelPicture:
    """One plane: RGB pixels, shape (rows, columns, 3), without the names, and the names' places."""

    plane: str
    pixels: NDArray[np.uint8]
    pixel_mm: float
    marks: tuple[Mark, ...]


def shown_levels(segmentation: SpineSegmentation) -> list[str]:
    """Names of the structures that the picture names, cranial to caudal; specks are none, as for the level check."""
    counts = np.zeros(256, int)
    for layer in segmentation.labels_zyx:
        counts += np.bincount(layer.ravel(), minlength=256)
    least = LEAST_VERTEBRA_ML / segmentation.ct_geometry.voxel_volume_ml
    present = set(np.flatnonzero(counts >= least).tolist())
    return [name for name in (*ORDER, SACRUM) if segmentation.label_of(name) in present]


def render_levels(
    ct: CTVolume, segmentation: SpineSegmentation, levels: Mapping[str, NamedLevel]
) -> dict[str, LevelPicture]:
    """The sagittal and the coronal picture, by plane name; empty if no vertebra was found.

    levels: how to show each structure, by the segmenter's name; one that is not named there is shown as it is.
    """
    masks = {name: structure_mask(segmentation, name) for name in (*shown_levels(segmentation), *LAST_RIBS)}
    found = {name: mask for name, mask in masks.items() if mask is not None}
    volumes = {name: np.count_nonzero(mask.block_zyx) for name, mask in found.items() if name in ORDER}
    if not volumes:
        return {}
    small = FRAGMENT_FRACTION * float(np.median(list(volumes.values())))
    centres = {name: _body_centre(found[name]) for name, volume in volumes.items() if volume >= small}
    shown = {name: levels.get(name, NamedLevel(name, name)) for name in found}
    return {plane: _render(ct, plane, found, centres, shown) for plane in BESIDE_MM}


def _body_centre(mask: L1Mask) -> FloatArray:
    """LPS millimetres; thinned to voxels of at most 1.5 mm, which is as exact as a picture needs."""
    spacing = np.asarray(mask.geometry.spacing_mm_xyz)
    x, y, z = np.maximum(1, np.floor(CENTRE_VOXEL_MM / spacing)).astype(int)
    thinned = mask.block_zyx[::z, ::y, ::x]
    spacing_x, spacing_y, spacing_z = (float(v) for v in spacing * (x, y, z))
    center = core_center(thinned, (spacing_x, spacing_y, spacing_z)) * (x, y, z)
    return mask.geometry.index_to_lps(center)


def _middle(mask: L1Mask) -> FloatArray:
    return mask.geometry.index_to_lps(np.argwhere(mask.block_zyx).mean(axis=0)[::-1])


def _render(
    ct: CTVolume,
    plane: str,
    masks: Mapping[str, L1Mask],
    centres: Mapping[str, FloatArray],
    levels: Mapping[str, NamedLevel],
) -> LevelPicture:
    surface = _CurvedPlane.through(plane, list(centres.values()), *_extent(masks))
    grey = grey_levels(surface.sample_ct(ct))
    outlines = {name: surface.sample_mask(mask) for name, mask in masks.items()}
    picture = np.repeat(grey[..., np.newaxis], 3, axis=2)
    for name in sorted(outlines, key=lambda name: levels[name].is_target):
        level = levels[name]
        picture = blend(picture, outlines[name], colour_of(level), 0.2 if level.is_target else 0.0)
    marks = [
        _mark(levels[name], surface.pixel_of(centres.get(name, _middle(mask))), outlines[name])
        for name, mask in masks.items()
        if name not in LAST_RIBS
    ]
    return LevelPicture(plane, picture.round().astype(np.uint8), surface.pixel_mm, _apart(marks, picture.shape[0]))


def _mark(level: NamedLevel, at_xy: FloatArray, inside: BoolArray) -> Mark:
    """A name left of where the structure begins at its own height; at its middle if the plane does not cut it."""
    x, y = (float(v) for v in at_xy)
    row = int(np.clip(round(y), 0, inside.shape[0] - 1))
    columns = np.flatnonzero(inside[max(row - 3, 0) : row + 4].any(axis=0))
    edge = float(columns[0]) if columns.size else x
    return Mark(level, edge - NAME_GAP_PX, y, edge - 1, y)


def colour_of(level: NamedLevel) -> tuple[int, int, int]:
    """The outline's and name's colour; a doubt is also said by a question mark."""
    if level.is_doubtful:
        return (255, 110, 100)
    return (255, 176, 0) if level.is_target else (125, 200, 255)


def _extent(masks: Mapping[str, L1Mask]) -> tuple[float, float]:
    """Lowest and highest point of the picture, LPS z in mm: all vertebrae, and the upper part of the sacrum."""
    low, high = [], []
    for name, mask in masks.items():
        if name not in LAST_RIBS:
            z = mask.geometry.index_to_lps(np.argwhere(mask.block_zyx)[:, ::-1])[:, 2]
            lowest, highest = np.percentile(z, (STRAY_PERCENT, 100 - STRAY_PERCENT))
            low.append(max(lowest, highest - SACRUM_SHOWN_MM) if name == SACRUM else lowest)
            high.append(highest)
    return float(min(low)) - ABOVE_BELOW_MM, float(max(high)) + ABOVE_BELOW_MM


@dataclass(frozen=True)
class _CurvedPlane:
    """A plane that is bent, line by line, to run through the bodies; `bend_mm` has one shift a row along the normal."""

    geometry: ImageGeometry
    normal: FloatArray
    bend_mm: FloatArray
    pixel_mm: float

    @staticmethod
    def through(plane: str, centres: list[FloatArray], low_mm: float, high_mm: float) -> _CurvedPlane:
        right, down = (np.asarray(v) for v in PLANES[plane][:2])
        normal = np.cross(right, down)
        points = np.array(sorted(centres, key=lambda c: c[2]))
        pixel = max(FINEST_PIXEL_MM, (high_mm - low_mm) / MAXIMUM_ROWS)
        rows = round((high_mm - low_mm) / pixel)
        across = points @ right
        beside_left, beside_right = BESIDE_MM[plane]
        first, last = across.min() - beside_left, across.max() + beside_right
        columns = round((last - first) / pixel)
        depth = points @ normal
        bend = np.interp(high_mm - pixel * np.arange(rows), points[:, 2], depth)
        x, y, z = (float(v) for v in right * first - down * high_mm + normal * bend.mean())
        direction = np.stack([right, down, normal], axis=1)
        geometry = ImageGeometry((columns, rows, 1), (pixel, pixel, 1.0), (x, y, z), tuple(direction.ravel()))
        return _CurvedPlane(geometry, normal, bend - bend.mean(), pixel)

    def pixel_of(self, point_lps_mm: FloatArray) -> FloatArray:
        """(x, y) of the pixel nearest to a point, continuous."""
        return self.geometry.lps_to_index(point_lps_mm)[:2]

    def sample_ct(self, ct: CTVolume) -> FloatArray:
        """HU, shape (rows, columns)."""
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.geometry.size_xyz])).reshape(3, -1).T
        points = self.geometry.index_to_lps(corners)
        reach = np.outer([self.bend_mm.min(), self.bend_mm.max()], self.normal)
        index = ct.geometry.lps_to_index(np.concatenate([points + r for r in reach]))
        size = np.asarray(ct.geometry.size_xyz)
        start = np.clip(np.floor(index.min(axis=0)) - 1, 0, size - 1).astype(int)
        stop = np.clip(np.ceil(index.max(axis=0)) + 2, start + 1, size).astype(int)
        block = cut_ct(ct, index3(start), index3(stop - start))
        return self._resample(to_image(block.array_zyx, block.geometry), -1000.0)

    def sample_mask(self, mask: L1Mask) -> BoolArray:
        """Where the mask is cut by the plane, shape (rows, columns)."""
        padded = np.pad(mask.block_zyx, 1).astype(np.float32)
        x, y, z = (n - 1 for n in mask.start_xyz)
        size = index3(np.array(padded.shape[::-1]))
        return self._resample(to_image(padded, mask.ct_geometry.cut((x, y, z), size)), 0.0) >= 0.5

    def _resample(self, image: sitk.Image, outside: float) -> FloatArray:
        shift = self.bend_mm[np.newaxis, :, np.newaxis, np.newaxis] * self.normal
        field = np.broadcast_to(shift, (*self.geometry.shape_zyx, 3))
        field_image = sitk.GetImageFromArray(np.ascontiguousarray(field), isVector=True)
        target = to_image(np.zeros(self.geometry.shape_zyx, np.uint8), self.geometry)
        field_image.CopyInformation(target)
        bent = sitk.DisplacementFieldTransform(field_image)
        return sitk.GetArrayFromImage(sitk.Resample(image, target, bent, sitk.sitkLinear, outside, sitk.sitkFloat32))[0]


def _apart(marks: list[Mark], rows: int) -> tuple[Mark, ...]:
    """Names moved up or down until none covers another."""
    ordered = sorted(marks, key=lambda mark: mark.y)
    y = [mark.y for mark in ordered]
    for _ in range(50):
        for i, j in pairwise(range(len(y))):
            short = NAME_HEIGHT_PX - (y[j] - y[i])
            if short > 0:
                y[i], y[j] = y[i] - short / 2, y[j] + short / 2
    half = NAME_HEIGHT_PX / 2
    inside = np.clip(y, half, rows - half)
    return tuple(replace(mark, y=float(v)) for mark, v in zip(ordered, inside, strict=True))
