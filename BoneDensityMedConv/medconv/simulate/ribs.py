"""The lowest ribs, so that a simulated CT has the landmarks by which a radiologist counts vertebrae."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from medconv.simulate import vertebra
from medconv.simulate.body_frame import BodyFrame
from medconv.simulate.patient import Patient
from medconv.simulate.spine import BoneField, PlacedVertebra
from medconv.types import FloatArray

RIB_RADIUS_MM = (4.2, 4.2, 5.6)
RIB_SHELL_MM = 0.8
# The chest wall as an ellipse about the point 22 mm before the spine; a rib leaves the spine and joins it at 30°.
WALL_HALF_AXES_MM, WALL_CENTER_Y_MM = (122.0, 78.0), -22.0
FALL_PER_MM = 0.38  # how steeply ribs descend
END_DEG = {"T12": 58.0, "T11": 105.0}
UPPER_RIBS_MM = {30.0: 128.0, 58.0: 140.0}  # ribs above T11: height over it, and where they end


# A whole trunk's: where each ends. The last ribs are short and free, those above reach the front.
TRUNK_END_DEG: Mapping[str, float] = {
    "T12": 58.0, "T11": 100.0, "T10": 126.0, "T9": 138.0, "T8": 144.0, "T7": 148.0, "T6": 150.0, "T5": 150.0,
    "T4": 150.0,
}  # fmt: skip
L1_RIB_END_DEG = 47.0


def add_ribs(bone: BoneField, spine: Sequence[PlacedVertebra], patient: Patient) -> None:
    """Add both sides' ribs to `bone`, in place. Ribs get label 0."""
    by_level = {placed.level: placed.center for placed in spine}
    starts = [(by_level[level], end) for level, end in END_DEG.items() if level in by_level]
    if "T11" in by_level:
        starts += [(by_level["T11"] + np.array([0.0, 2.0, up]), end) for up, end in UPPER_RIBS_MM.items()]
    for center, end in starts:
        points = _course(center, end, patient.shape.at_level("T12").height, WALL_CENTER_Y_MM, 1.0)
        for side in (-1.0, 1.0):
            _add_rib(bone, points * [side, 1.0, 1.0] + [center[0] * (1.0 - side), 0.0, 0.0], 0)


def add_labelled_ribs(
    bone: BoneField, spine: Sequence[PlacedVertebra], patient: Patient, frame: BodyFrame, rib_levels: Sequence[str]
) -> None:
    """Add the ribs of the levels given, in place, each with its TotalSegmentator number (see `rib_label`)."""
    for placed in (v for v in spine if v.level in rib_levels):
        center = placed.center
        end = TRUNK_END_DEG.get(placed.level, L1_RIB_END_DEG)
        wall_y = WALL_CENTER_Y_MM + float(frame.back_at(center[2]))
        points = _course(center, end, patient.shape.at_level(placed.level).height, wall_y, frame.girth)
        for side in (-1.0, 1.0):  # the patient's left is +x
            label = rib_label(placed.level, left=side > 0)
            _add_rib(bone, points * [side, 1.0, 1.0] + [center[0] * (1.0 - side), 0.0, 0.0], label)


def rib_label(level: str, *, left: bool) -> int:
    """92..103 on the left, 104..115 on the right for ribs 1 to 12; L1's, which have no number there, 119 and 120."""
    if level == "L1":
        return 119 if left else 120
    return (91 if left else 103) + int(level[1:])


def _course(center: FloatArray, end_deg: float, body_height: float, wall_y_mm: float, girth: float) -> FloatArray:
    """Points along the left rib's axis, shape (n, 3), LPS mm."""
    near_spine = np.array([[24.0, 9.0], [37.0, 28.0], [50.0, 41.0]])
    angles = np.radians(np.arange(32.0, end_deg + 1e-6, 7.0))
    a, b = (half * girth for half in WALL_HALF_AXES_MM)
    wall = np.stack([a * np.sin(angles), wall_y_mm + b * np.cos(angles)], axis=1)
    flat = np.concatenate([near_spine + np.array([0.0, center[1]]), wall])
    run = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(flat, axis=0), axis=1))])
    z = center[2] + 0.3 * body_height - FALL_PER_MM * run
    return np.column_stack([flat[:, 0] + center[0], flat[:, 1], z])


def _add_rib(bone: BoneField, points: FloatArray, label: int) -> None:
    reach = max(RIB_RADIUS_MM) + 4.0
    for first, last in pairwise(points):
        part = bone.grid.part(np.minimum(first, last) - reach, np.maximum(first, last) + reach)
        if any(cut.stop <= cut.start for cut in part):
            continue
        z = bone.grid.z_mm[part[0]][:, None, None]
        y = bone.grid.y_mm[part[1]][None, :, None]
        x = bone.grid.x_mm[part[2]][None, None, :]
        start, end = ((float(p[0]), float(p[1]), float(p[2])) for p in (first, last))
        bone.add(part, vertebra.rod_distance(x, y, z, start, end, RIB_RADIUS_MM), RIB_SHELL_MM, label)
