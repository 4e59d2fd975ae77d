"""L1 in three planes as pictures: sagittal, axial, coronal through its centre, in a bone window, with its outline.

Radiological display: the patient's right is on the viewer's left; in the sagittal plane anterior is on the left.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.grid import cut_ct, index3, to_image
from medconv.types import CTVolume, ImageGeometry, L1Case, Vector3

BONE_WINDOW_HU = (-500.0, 1300.0)  # level 400, width 1800: the usual bone window
FIELD_OF_VIEW_MM = 140.0
PIXEL_MM = 0.35
OUTLINE_RGB = np.array([255, 176, 0], np.float32)
FILL_OPACITY = 0.18
SCALE_BAR_MM = 20.0

# Screen right and screen down of every plane in LPS, and the letters at its left, right, top and bottom edges.
PLANES: Mapping[str, tuple[Vector3, Vector3, str]] = {
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), "APSI"),
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), "RLAP"),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), "RLSI"),
}
# 5x7 dot letters, one row per number, most significant bit left.
GLYPHS: Mapping[str, tuple[int, ...]] = {
    "A": (14, 17, 17, 31, 17, 17, 17),
    "P": (30, 17, 17, 30, 16, 16, 16),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "I": (14, 4, 4, 4, 4, 4, 14),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "L": (16, 16, 16, 16, 16, 16, 31),
}


def render_planes(ct: CTVolume, case: L1Case) -> dict[str, NDArray[np.uint8]]:
    """RGB pictures, shape (rows, columns, 3), of the three planes through L1's centre, by plane name.

    ct: the CT to show (the whole one shows more around L1 than the case's own block).
    """
    block = _around(ct, case.center_lps_mm)
    hu = to_image(block.array_zyx.astype(np.float32), block.geometry)
    mask = to_image(case.mask_zyx.astype(np.float32), case.ct.geometry)
    pictures = {}
    for name, (right, down, letters) in PLANES.items():
        plane = to_image(*_plane(case.center_lps_mm, right, down))
        grey = _sample(hu, plane, -1000.0)
        inside = _sample(mask, plane, 0.0) >= 0.5
        pictures[name] = _annotate(_blend(grey, inside), letters)
    return pictures


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """An RGB picture, shape (rows, columns, 3), as PNG."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plane.png"
        sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(path), useCompression=True)
        return path.read_bytes()


def _around(ct: CTVolume, center_lps_mm: Vector3) -> CTVolume:
    """The block of the CT that the pictures show."""
    center = ct.geometry.lps_to_index(center_lps_mm)
    # The cube's corners bound the block in any orientation.
    half = FIELD_OF_VIEW_MM / 2 * np.abs(np.reshape(ct.geometry.direction, (3, 3))).sum(axis=0)
    half = half / np.asarray(ct.geometry.spacing_mm_xyz) + 1
    start = np.maximum(np.floor(center - half), 0).astype(int)
    stop = np.minimum(np.ceil(center + half) + 1, ct.geometry.size_xyz).astype(int)
    return cut_ct(ct, index3(start), index3(stop - start))


def _plane(center: Vector3, right: Vector3, down: Vector3) -> tuple[NDArray[np.uint8], ImageGeometry]:
    pixels = round(FIELD_OF_VIEW_MM / PIXEL_MM)
    normal = np.cross(right, down)
    direction = np.stack([right, down, normal], axis=1)
    corner = np.asarray(center) - (np.asarray(right) + np.asarray(down)) * (pixels - 1) / 2 * PIXEL_MM
    x, y, z = (float(v) for v in corner)
    geometry = ImageGeometry((pixels, pixels, 1), (PIXEL_MM, PIXEL_MM, 1.0), (x, y, z), tuple(direction.ravel()))
    return np.zeros(geometry.shape_zyx, np.uint8), geometry


def _sample(image: sitk.Image, plane: sitk.Image, outside: float) -> NDArray[np.float32]:
    resampled = sitk.Resample(image, plane, sitk.Transform(), sitk.sitkLinear, outside)
    return np.asarray(sitk.GetArrayFromImage(resampled)[0])


def _blend(grey_hu: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    low, high = BONE_WINDOW_HU
    grey = np.clip((grey_hu - low) / (high - low), 0, 1) * 255
    rgb = np.repeat(grey[..., np.newaxis], 3, axis=2)
    core = np.pad(inside, 1)
    eroded = core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:]
    outline = inside & ~eroded
    rgb[inside] = (1 - FILL_OPACITY) * rgb[inside] + FILL_OPACITY * OUTLINE_RGB
    rgb[outline] = OUTLINE_RGB
    return np.asarray(rgb.round().astype(np.uint8))


def _annotate(picture: NDArray[np.uint8], letters: str, scale: int = 2, edge: int = 8) -> NDArray[np.uint8]:
    """Letters of the directions at the four edges, and a 20 mm scale bar at the lower right."""
    rows, columns, _ = picture.shape
    height, width = 7 * scale, 5 * scale
    corners = [
        (rows // 2, edge),
        (rows // 2, columns - edge - width),
        (edge, columns // 2),
        (rows - edge - height, columns // 2),
    ]
    for letter, (y, x) in zip(letters, corners, strict=True):
        bits = np.array([[row >> (4 - column) & 1 for column in range(5)] for row in GLYPHS[letter]], bool)
        picture[y : y + height, x : x + width][np.kron(bits, np.ones((scale, scale), bool))] = (235, 235, 235)
    length = round(SCALE_BAR_MM / PIXEL_MM)
    picture[rows - edge - 3 : rows - edge, columns - edge - length : columns - edge] = (235, 235, 235)
    return picture
