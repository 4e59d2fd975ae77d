"""Real vertebrae as forms: a label map's L1 as signed distances, in place of the drawn vertebra.

Only the form is taken: density, cortex and texture stay simulated. A label map's surface is smoothed by its own voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medconv.grid import geometry_of, index3, to_image
from medconv.simulate.vertebra import Array
from medconv.types import BoolArray, FloatArray, ImageGeometry, InputRefused
from medconv.vertebral_body import distance_mm, upright_body

L1_LABELS = (31, 20)  # TotalSegmentator's and VerSe's; else the file's only label
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
STEP_MM = 1.0
SMOOTHING_MM = 0.8
BODY_SMOOTHING_MM = 3.0  # where the body becomes the arch
RIM_MM, MIDLINE_MM = 4.0, 6
# What a template's grid holds around the centre of the body, in voxels: to the right and left, to the front and to the
# tip of the spinous process, below and above.
FRAME_BEFORE_XYZ, FRAME_BEHIND_XYZ = (55, 35, 50), (55, 85, 45)


@dataclass(frozen=True)
class Template:
    """Signed distances on a 1 mm grid (z, y, x) in the body's own axes: of the whole vertebra, and of its body.

    first_xyz: the first voxel from the body's centre. scale: how much larger than in the label map.
    """

    whole_mm: Array
    body_mm: Array
    first_xyz: tuple[float, float, float]
    size_mm: tuple[float, float, float]  # of the body: width, depth, height
    scale: float = 1.0

    def scaled(self, factor: float) -> Template:
        """The same form, larger by a factor."""
        return replace(self, scale=self.scale * factor)

    def distances(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """Distances to the surface, to the body and to the arch at points in the vertebra's own coordinates."""
        from scipy.ndimage import map_coordinates

        first = self.first_xyz
        at = [(v / self.scale - first[i]) / STEP_MM for i, v in ((2, z), (1, y), (0, x))]
        whole, body = (
            map_coordinates(field, at, order=1, mode="nearest") * np.float32(self.scale)
            for field in (self.whole_mm, self.body_mm)
        )
        # What is not body is arch; negative in it, as a distance is.
        return whole.astype(np.float32), body.astype(np.float32), -body.astype(np.float32)


def template_files(folder: Path) -> list[Path]:
    """Label maps in a folder, by name. Raises InputRefused if there are none."""
    found = sorted(p for p in folder.iterdir() if p.name.lower().endswith(ENDINGS)) if folder.is_dir() else []
    if not found:
        raise InputRefused(
            "no_templates", f"{folder} holds no label maps.", "Give a folder with .nii.gz or .nrrd label maps of L1."
        )
    return found


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 over the files' contents: other templates, another cohort. "" without files."""
    if not files:
        return ""
    return sha256(b"".join(sha256(p.read_bytes()).digest() for p in files)).hexdigest()


@lru_cache(maxsize=64)
def load_template(file: Path) -> Template:
    """L1 of a label map. Raises InputRefused if it holds none, or more than one label and none of L1's numbers."""
    try:
        image = sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise InputRefused("template_unreadable", f"{file.name} can't be read.", "Give a label map.") from error
    labels = sitk.GetArrayViewFromImage(image)
    present = [int(v) for v in np.unique(labels) if v > 0]
    number = next((n for n in L1_LABELS if n in present), present[0] if len(present) == 1 else None)
    if number is None or labels.ndim != 3:
        raise InputRefused(
            "template_without_l1",
            f"{file.name} holds the labels {present}, none of them L1's (31 TotalSegmentator, 20 VerSe).",
            "Give label maps with L1, or with one label alone.",
        )
    return _template(np.asarray(labels == number), geometry_of(image))


def _template(mask_zyx: BoolArray, geometry: ImageGeometry) -> Template:
    upright = upright_body(mask_zyx, geometry)
    frame = _frame(upright.geometry, upright.middle_xyz)
    whole, body = (
        _on(frame, image)
        for image in (
            to_image(mask_zyx.astype(np.float32), geometry),
            to_image(upright.body_zyx.astype(np.float32), upright.geometry),
        )
    )
    # The rims, which the search for the body rounds off, belong to it; pedicles, beside the canal, do not.
    near = (upright.mask_zyx >= 0.5) & (distance_mm(upright.body_zyx) <= RIM_MM)
    x = round(float(upright.middle_xyz[0]))
    midline = near[:, :, x - MIDLINE_MM : x + MIDLINE_MM + 1]
    depth, height = (float(midline.any(axis=axes).sum()) for axes in ((0, 2), (1, 2)))
    width = float(near.any(axis=(0, 1)).sum())
    first = tuple(-float(v) for v in FRAME_BEFORE_XYZ)
    return Template(_signed(whole, SMOOTHING_MM), _signed(body, BODY_SMOOTHING_MM), first, (width, depth, height))  # type: ignore[arg-type]


def _frame(upright: ImageGeometry, middle_xyz: FloatArray) -> ImageGeometry:
    """A 1 mm grid in the body's own axes that holds the whole vertebra, its spinous process too."""
    x, y, z = (float(v) for v in upright.index_to_lps(middle_xyz - np.array(FRAME_BEFORE_XYZ)))
    spacing = (STEP_MM, STEP_MM, STEP_MM)
    size = index3(np.array(FRAME_BEFORE_XYZ) + np.array(FRAME_BEHIND_XYZ) + 1)
    return ImageGeometry(size, spacing, (x, y, z), upright.direction)


def _on(frame: ImageGeometry, image: sitk.Image) -> BoolArray:
    grid = to_image(np.zeros(frame.shape_zyx, np.uint8), frame)
    return np.asarray(sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, 0.0)) >= 0.5)


def _signed(mask_zyx: BoolArray, smoothing_mm: float) -> Array:
    """Signed distance in mm, negative inside, smooth over the mask's steps."""
    from scipy.ndimage import gaussian_filter

    image = sitk.GetImageFromArray(mask_zyx.astype(np.uint8))
    inside = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False)
    distance = sitk.GetArrayFromImage(inside).astype(np.float32)
    smooth = gaussian_filter(distance, smoothing_mm / STEP_MM)
    # Smoothing shrinks what bulges: the surface goes back to where it holds the mask's volume.
    return np.asarray(smooth - np.quantile(smooth, mask_zyx.mean()), np.float32)
