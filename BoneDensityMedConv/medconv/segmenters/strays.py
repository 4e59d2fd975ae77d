"""Specks of a vertebra's name far away from that vertebra: every such network leaves some."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.types import ImageGeometry
from medconv.vertebrae import SACRUM, is_vertebra

# Starting values: half a vertebra under a wrong name has 15 ml and more and must stay, for the level check to see it;
# the tip of a spinous process lies within a centimetre of its arch.
STRAY_ML, FAR_MM = 5.0, 10.0


def without_strays(labels_zyx: NDArray[np.uint8], grid: ImageGeometry, names: Mapping[int, str]) -> NDArray[np.uint8]:
    """A copy without the small pieces of vertebrae and sacrum that lie more than 10 mm from their largest piece.

    The distance is that between the pieces' bounding boxes along one axis. Ribs stay: thin, they break into pieces.
    """
    cleaned = labels_zyx.copy()
    for label, name in names.items():
        if not (is_vertebra(name) or name == SACRUM) or not (hits := labels_zyx == label).any():
            continue
        components = sitk.ConnectedComponent(sitk.GetImageFromArray(hits.astype(np.uint8)), True)
        pieces = sitk.RelabelComponent(components, sortByObjectSize=True)
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.ComputePerimeterOff()
        shape.Execute(pieces)
        main = np.array(shape.GetBoundingBox(1)).reshape(2, 3)  # start and size, x y z
        far = [
            piece
            for piece in shape.GetLabels()[1:]
            if shape.GetNumberOfPixels(piece) * grid.voxel_volume_ml < STRAY_ML
            and _gap_mm(main, np.array(shape.GetBoundingBox(piece)).reshape(2, 3), grid) > FAR_MM
        ]
        if far:
            cleaned[np.isin(sitk.GetArrayViewFromImage(pieces), far)] = 0
    return cleaned


def _gap_mm(one: NDArray[np.int_], other: NDArray[np.int_], grid: ImageGeometry) -> float:
    """The widest gap between two boxes along an axis; 0 if they overlap along all three."""
    gap = np.maximum(one[0] - other.sum(axis=0), other[0] - one.sum(axis=0))
    return float((np.maximum(gap, 0) * grid.spacing_mm_xyz).max())
