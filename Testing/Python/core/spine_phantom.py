"""A lumbar spine of hand-made vertebrae (`phantom`) with ribs and sacrum, in TotalSegmentator's numbers.

Every body's centre is known: `CENTRES_MM` (LPS). The spine leans to the left and bends forward, so that no straight
plane runs through all bodies. Between two bodies lie 10 mm of disc.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from core.phantom import AIR_HU, CORTEX_HU, SOFT_HU, Phantom, grid, phantom

from medconv.types import Acquisition, CTVolume, SpineSegmentation
from medconv.vertebrae import TOTALSEGMENTATOR

NAMES = ("T11", "T12", "L1", "L2", "L3", "L4", "L5")
STEP_MM = 36.0
# L1 in the origin; x to the left by up to 12 mm, y forward (negative) in the lower lumbar spine.
CENTRES_MM = {
    name: (12.0 * np.sin(0.5 * place), 8.0 * np.cos(0.6 * place) - 8.0, -STEP_MM * place)
    for place, name in zip(range(-2, 5), NAMES, strict=True)
}
GEOMETRY = grid((2.0, 2.0, 2.5), (180.0, 180.0, 340.0), (0.0, 20.0, -40.0))


def spine_phantom(names=NAMES, trabecular_hu=150.0) -> Phantom:
    """CT and label map on one grid. names: what the bones from T11 down are called, cranial to caudal."""
    labels = np.zeros(GEOMETRY.shape_zyx, np.uint8)
    z, y, x = np.indices(GEOMETRY.shape_zyx).astype(np.float32)
    points = GEOMETRY.index_to_lps(np.stack([x, y, z], axis=-1))
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    hu = np.where(np.hypot(x, (y - 20)) <= 85, SOFT_HU, AIR_HU).astype(np.int16)
    for name, called in zip(NAMES, names, strict=True):
        middle = round(float(GEOMETRY.lps_to_index(CENTRES_MM[name])[2]))
        first, last = max(0, middle - 14), min(GEOMETRY.size_xyz[2], middle + 14)  # a vertebra is at most 52 mm high
        slab = GEOMETRY.cut((0, 0, first), (*GEOMETRY.size_xyz[:2], last - first))
        origin = tuple(o - c for o, c in zip(slab.origin_lps_mm, CENTRES_MM[name], strict=True))
        one = phantom(replace(slab, origin_lps_mm=origin), trabecular_hu)
        bone = one.labels_zyx > 0
        hu[first:last][bone] = one.ct.array_zyx[bone]
        labels[first:last][bone] = TOTALSEGMENTATOR[called]
    x0, y0, z0 = CENTRES_MM["T12"]
    for side, sign in (("left", 1), ("right", -1)):
        across = sign * (x - x0)
        rib = (across > 24) & (across < 70) & (abs(y - y0 - 18) < 5) & (abs(z - z0 + 0.3 * (across - 24)) < 5)
        hu[rib], labels[rib] = CORTEX_HU, TOTALSEGMENTATOR[f"rib_{side}_12"]
    x0, y0, z0 = CENTRES_MM["L5"]
    sacrum = (abs(x - x0) < 45) & (abs(y - y0 - 12) < 22) & (z < z0 - 24) & (z > z0 - 44)
    hu[sacrum], labels[sacrum] = 300, TOTALSEGMENTATOR["sacrum"]
    ct = CTVolume(hu, GEOMETRY, Acquisition(modality="CT", kvp=120.0), is_simulated=True)
    return Phantom(ct, labels)


def segmentation_of(spine: Phantom, **changes) -> SpineSegmentation:
    """What a perfect segmenter finds in it."""
    names = {label: name for name, label in TOTALSEGMENTATOR.items()}
    found = SpineSegmentation(spine.labels_zyx, (0, 0, 0), spine.ct.geometry, names, "totalsegmentator", "test weights")
    return replace(found, **changes)
