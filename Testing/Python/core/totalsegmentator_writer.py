"""TotalSegmentator's weights folder around networks that bin HU (`nnunet_writer`), and a CT that they know exactly."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from core.nnunet_writer import HU_OF, write_model

from medconv.segmenters.stand_in import write_stand_in
from medconv.segmenters.weights_store import VERTEBRAE_1_5MM
from medconv.types import CTVolume, ImageGeometry
from medconv.vertebrae import TOTALSEGMENTATOR

PATCH_ZYX = (32, 40, 40)
# Slices of the structures, caudal to cranial; all are 30 x 30 mm in plane.
LEVELS = {"sacrum": (6, 18), "L2": (26, 42), "L1": (50, 66), "T12": (74, 90)}
IN_PLANE = slice(25, 45)
SPACING_MM = 1.5


def write_weights(folder: Path, scratch: Path) -> Path:
    """All data sets of task "total": 3 mm networks, and a 1.5 mm one for the vertebrae. Returns `folder`."""
    write_stand_in(folder, write_model(scratch / "coarse", patch_zyx=PATCH_ZYX))
    write_stand_in(scratch / "fine weights", write_model(scratch / "fine", spacing_mm=1.5, patch_zyx=PATCH_ZYX))
    shutil.rmtree(folder / VERTEBRAE_1_5MM.folder)
    shutil.move(scratch / "fine weights" / VERTEBRAE_1_5MM.folder, folder)
    return folder


def painted_ct(
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1), spacing_mm: float = SPACING_MM
) -> tuple[CTVolume, np.ndarray]:
    """A CT of four boxes in soft tissue, and its labels in TotalSegmentator's numbers."""
    geometry = ImageGeometry((70, 64, 96), (spacing_mm,) * 3, (-60.0, 20.0, 5.0), tuple(float(v) for v in direction))
    hu, labels = np.full(geometry.shape_zyx, 40, np.int16), np.zeros(geometry.shape_zyx, np.uint8)
    for name, (low, high) in LEVELS.items():
        box = slice(low, high), IN_PLANE, IN_PLANE
        hu[box], labels[box] = HU_OF[name], TOTALSEGMENTATOR[name]
    return CTVolume(hu, geometry), labels
