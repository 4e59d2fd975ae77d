"""The CTs of the section `segmentation`: one simulated person, as an abdomen and as a large trunk CT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from medconv.grid import to_image
from medconv.simulate import simulate_lumbar_ct
from medconv.types import BoolArray, CTVolume, ImageGeometry
from medconv.vertebrae import TOTALSEGMENTATOR

SEED = 5
ABDOMEN_MM, TRUNK_MM = (-265.0, 130.0), (-325.0, 235.0)  # above the centre of L1
ROWS, IN_PLANE_MM = 512, 0.75
DRAWN_AT_MM = 1.5


@dataclass(frozen=True)
class BenchCT:
    """A CT and L1 as it was simulated."""

    ct: CTVolume
    l1_zyx: BoolArray


def abdomen_ct() -> BenchCT:
    """T9 to the hips at 0.9 x 0.9 x 1.5 mm."""
    case = simulate_lumbar_ct(SEED, field_of_view_mm=ABDOMEN_MM)
    return BenchCT(case.ct, case.labels_zyx == TOTALSEGMENTATOR["L1"])


def trunk_ct(slices: int) -> BenchCT:
    """512 x 512 x `slices` voxels from the fourth thoracic vertebra to the thighs, interpolated from 1.5 mm."""
    case = simulate_lumbar_ct(
        SEED, field_of_view_mm=TRUNK_MM, in_plane_spacing_mm=DRAWN_AT_MM, slice_thickness_mm=DRAWN_AT_MM
    )
    drawn = case.ct.geometry
    spacing = (IN_PLANE_MM, IN_PLANE_MM, drawn.size_xyz[2] * DRAWN_AT_MM / slices)
    middle = drawn.index_to_lps((np.array(drawn.size_xyz) - 1) / 2)
    x, y, z = (float(v) for v in middle - (np.array((ROWS, ROWS, slices)) - 1) / 2 * np.array(spacing))
    grid = sitk.Image((ROWS, ROWS, slices), sitk.sitkUInt8)
    grid.SetSpacing(spacing)
    grid.SetOrigin((x, y, z))
    hu = sitk.Resample(to_image(case.ct.array_zyx, drawn), grid, sitk.Transform(), sitk.sitkLinear, -1000.0)
    labels = sitk.Resample(to_image(case.labels_zyx, drawn), grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    geometry = ImageGeometry((ROWS, ROWS, slices), spacing, (x, y, z))
    ct = CTVolume(sitk.GetArrayFromImage(hu), geometry, case.ct.acquisition, is_simulated=True)
    return BenchCT(ct, sitk.GetArrayViewFromImage(labels) == TOTALSEGMENTATOR["L1"])
