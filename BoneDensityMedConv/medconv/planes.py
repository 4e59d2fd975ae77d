"""L1 in three planes as pictures: sagittal, axial, coronal through its centre, in a bone window, with its outline.

Radiological display: the patient's right is on the viewer's left; in the sagittal plane anterior is on the left.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.dot_letters import draw_text, text_size
from medconv.grid import cut_from_whole, index3, to_image
from medconv.neighbourhood import FIELD_OF_VIEW_MM, in_view
from medconv.types import BoolArray, CTVolume, FloatArray, ImageGeometry, L1Case, Vector3

BONE_WINDOW_HU = (-500.0, 1300.0)  # level 400, width 1800: the usual bone window
PIXEL_MM = 0.35
OUTLINE_RGB = (255, 176, 0)
LETTER_RGB = (235, 235, 235)
FILL_OPACITY = 0.18
SCALE_BAR_MM = 20.0

# Screen right and screen down of every plane in LPS, and the letters at its left, right, top and bottom edges.
PLANES: Mapping[str, tuple[Vector3, Vector3, str]] = {
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), "APSI"),
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), "RLAP"),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), "RLSI"),
}


@dataclass(frozen=True)
class Region:
    """What is outlined in the pictures: a mask (z, y, x) on its own grid, and how it is drawn."""

    mask_zyx: BoolArray
    geometry: ImageGeometry
    colour: tuple[int, int, int] = OUTLINE_RGB
    fill_opacity: float = FILL_OPACITY


@dataclass(frozen=True)
class Overlay:
    """What is laid over the pictures in colour: values (z, y, x) on their own grid, 0 outside it.

    colours: values of shape (rows, columns) to red, green, blue (0 to 255) and opacity (0 to 1): (rows, columns, 4).
    """

    values_zyx: NDArray[np.float32]
    geometry: ImageGeometry
    colours: Callable[[FloatArray], FloatArray]


def render_planes(ct: CTVolume, case: L1Case) -> dict[str, NDArray[np.uint8]]:
    """RGB pictures, shape (rows, columns, 3), of the three planes through the vertebra's centre, by plane name.

    ct: the CT to show (the whole one shows more around the vertebra than the case's own block).
    """
    return render_regions(ct, case.center_lps_mm, [Region(case.mask_zyx, case.ct.geometry)])


def render_regions(
    ct: CTVolume, center_lps_mm: Vector3, regions: Sequence[Region], overlays: Sequence[Overlay] = ()
) -> dict[str, NDArray[np.uint8]]:
    """The three planes through any point, with any regions outlined; a later one is drawn over an earlier one.

    overlays: laid over the CT, under the outlines.
    """
    block = _around(ct, center_lps_mm)
    hu = to_image(block.array_zyx.astype(np.float32), block.geometry)
    masks = [_mask_image(region) for region in regions]
    laid_over = [(overlay, to_image(overlay.values_zyx, overlay.geometry)) for overlay in overlays]
    pictures = {}
    for name, (right, down, letters) in PLANES.items():
        plane = to_image(*_plane(center_lps_mm, right, down))
        rgb = np.repeat(grey_levels(_sample(hu, plane, -1000.0))[..., np.newaxis], 3, axis=2)
        for overlay, image in laid_over:
            colours = overlay.colours(_sample(image, plane, 0.0))
            rgb = rgb + colours[..., 3:] * (colours[..., :3] - rgb)
        for region, mask in zip(regions, masks, strict=True):
            rgb = blend(rgb, _sample(mask, plane, 0.0) >= 0.5, region.colour, region.fill_opacity)
        pictures[name] = _annotate(rgb.round().astype(np.uint8), letters)
    return pictures


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """An RGB picture, shape (rows, columns, 3), as PNG."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plane.png"
        sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(path), useCompression=True)
        return path.read_bytes()


def _around(ct: CTVolume, center_lps_mm: Vector3) -> CTVolume:
    """The block of the CT that the pictures show."""
    return cut_from_whole(ct, *in_view(ct.whole_geometry, center_lps_mm))


def _mask_image(region: Region) -> sitk.Image:
    """With a rim of background, so that the edge of a tight mask is interpolated like any other."""
    size = index3(np.asarray(region.geometry.size_xyz) + 2)
    return to_image(np.pad(region.mask_zyx, 1).astype(np.float32), region.geometry.cut((-1, -1, -1), size))


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


def grey_levels(hu: FloatArray) -> FloatArray:
    """HU to 0 … 255 in the bone window."""
    low, high = BONE_WINDOW_HU
    return np.clip((hu - low) / (high - low), 0, 1) * 255


def blend(
    rgb: FloatArray,
    inside: BoolArray,
    colour: tuple[int, int, int] = OUTLINE_RGB,
    fill_opacity: float = FILL_OPACITY,
) -> FloatArray:
    """A picture, shape (rows, columns, 3), with a region's outline and tint drawn into a copy of it."""
    result = rgb.copy()
    core = np.pad(inside, 1)
    eroded = core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:]
    result[inside] = (1 - fill_opacity) * rgb[inside] + fill_opacity * np.asarray(colour)
    result[inside & ~eroded] = colour
    return result


def _annotate(picture: NDArray[np.uint8], letters: str, edge: int = 8) -> NDArray[np.uint8]:
    """Letters of the directions at the four edges, and a 20 mm scale bar at the lower right."""
    rows, columns, _ = picture.shape
    height, width = text_size("A")
    places = [
        (rows // 2, edge),
        (rows // 2, columns - edge - width),
        (edge, columns // 2),
        (rows - edge - height, columns // 2),
    ]
    for letter, (row, column) in zip(letters, places, strict=True):
        draw_text(picture, letter, row, column, LETTER_RGB)
    draw_scale_bar(picture, PIXEL_MM, edge)
    return picture


def draw_scale_bar(picture: NDArray[np.uint8], pixel_mm: float, edge: int = 8) -> None:
    """20 mm at the lower right."""
    rows, columns, _ = picture.shape
    length = round(SCALE_BAR_MM / pixel_mm)
    picture[rows - edge - 3 : rows - edge, columns - edge - length : columns - edge] = LETTER_RGB
