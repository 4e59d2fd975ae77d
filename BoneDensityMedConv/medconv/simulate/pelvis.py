"""Sacrum, hip bones and femoral heads: the landmarks from which vertebrae are counted upwards.

A sketch in the sacrum's own coordinates (x left, y posterior, z along the sacrum, origin at the centre of S1's body):
its levels are fused, so one tapering plate with wings, foramina and a crest stands for S1 to S5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from medconv.simulate.patient import Patient
from medconv.simulate.spine import BoneField, CoarseGrid, PlacedVertebra
from medconv.simulate.vertebra import Array, rod_distance, smooth_maximum, smooth_minimum
from medconv.types import FloatArray

SACRUM, S1, FEMUR_LEFT, FEMUR_RIGHT, HIP_LEFT, HIP_RIGHT = 25, 26, 75, 76, 77, 78  # TotalSegmentator v2 "total"
SACRUM_SHELL_MM, HIP_SHELL_MM = 0.4, 0.9
BODY_HEIGHT_MM = 30.0  # of S1
SACRUM_LENGTH_MM = 105.0
SACRUM_CURVE_PER_MM = 0.0035  # its hollow front
WING_FALL = 0.42  # how far the wings lie behind the body, per mm to the side


@dataclass(frozen=True)
class Sacrum:
    """Where the sacrum lies: centre of S1's body and the rotation from its own coordinates to LPS."""

    center: FloatArray
    rotation: FloatArray
    width: float
    depth: float

    def own_coordinates(self, grid: CoarseGrid, part: tuple[slice, slice, slice]) -> tuple[Array, Array, Array]:
        """The grid's points in the sacrum's own coordinates."""
        return PlacedVertebra.own_coordinates(self, grid, part)  # type: ignore[arg-type]  # same fields


def place_sacrum(patient: Patient, last: PlacedVertebra, turn: FloatArray, disc_mm: float = 10.0) -> Sacrum:
    """Below the last lumbar vertebra, turned by `turn` (3 x 3)."""
    axis = last.rotation[:, 2] + turn[:, 2]
    gap = last.shape.height / 2.0 + disc_mm + BODY_HEIGHT_MM / 2.0
    center = last.center - gap * axis / np.linalg.norm(axis)
    return Sacrum(np.asarray(center), turn, 1.12 * patient.shape.width, 1.05 * patient.shape.depth)


def add_pelvis(bone: BoneField, sacrum: Sacrum) -> None:
    """Add sacrum (S1's body with a label of its own), hip bones and femora to `bone`, in place."""
    below, above = np.array([75.0, 75.0, 130.0]), np.array([75.0, 110.0, 60.0])
    part = bone.grid.part(sacrum.center - below, sacrum.center + above)
    if not any(cut.stop <= cut.start for cut in part):
        x, y, z = sacrum.own_coordinates(bone.grid, part)
        distance = _sacrum_distance(x, y, z, sacrum)
        is_s1 = (np.abs(x) < 0.5 * sacrum.width) & (z > -BODY_HEIGHT_MM / 2.0) & (y < 0.55 * sacrum.depth)
        bone.add(part, distance, SACRUM_SHELL_MM, SACRUM)
        owner = bone.owner[part]
        owner[(owner == SACRUM) & is_s1] = S1
    for side, hip, femur in ((1.0, HIP_LEFT, FEMUR_LEFT), (-1.0, HIP_RIGHT, FEMUR_RIGHT)):
        part = bone.grid.part(*_half_pelvis(sacrum.center, side))
        if any(cut.stop <= cut.start for cut in part):
            continue
        cx, cy, cz = (np.float32(c) for c in sacrum.center)
        across = np.float32(side) * (bone.grid.x_mm[part[2]][None, None, :] - cx)
        y, z = bone.grid.y_mm[part[1]][None, :, None] - cy, bone.grid.z_mm[part[0]][:, None, None] - cz
        bone.add(part, _hip_distance(across, y, z), HIP_SHELL_MM, hip)
        bone.add(part, _femur_distance(across, y, z), HIP_SHELL_MM, femur)


def _half_pelvis(center: FloatArray, side: float) -> tuple[FloatArray, FloatArray]:
    """Corners of a box that holds one side's hip bone and femur."""
    inner, outer = center[0] + side * 22.0, center[0] + side * 165.0
    return (
        np.array([min(inner, outer), center[1] - 80.0, center[2] - 260.0]),
        np.array([max(inner, outer), center[1] + 80.0, center[2] + 45.0]),
    )


def _sacrum_distance(x: Array, y: Array, z: Array, sacrum: Sacrum) -> Array:
    half = BODY_HEIGHT_MM / 2.0
    down = np.clip((half - z) / SACRUM_LENGTH_MM, -0.3, 1.3)  # 0 at the promontory, 1 at the tip
    side = np.abs(x)
    hollow = SACRUM_CURVE_PER_MM * (np.clip(-z, 0.0, None) * (SACRUM_LENGTH_MM + np.clip(z, -110.0, 0.0)))
    y = np.asarray(y - hollow, np.float32)  # the middle lies further back than both ends
    a, b = sacrum.width / 2.0 * (1.0 - 0.55 * down), sacrum.depth / 2.0 * (1.0 - 0.62 * down)
    rho = np.sqrt((x / a) ** 2 + (y / b) ** 2)
    around = np.asarray((rho - 1.0) * np.minimum(a, b), np.float32)
    promontory = np.asarray(z - half + 0.12 * side, np.float32)
    body = smooth_maximum(around, promontory, 3.0)
    body = smooth_maximum(body, -z - SACRUM_LENGTH_MM + half, 3.0)
    reach, thick = 56.0 - 36.0 * np.clip(down, 0.0, 1.0) ** 0.8, 15.0 - 8.5 * np.clip(down, 0.0, 1.0)
    wing = smooth_maximum(side - reach, np.abs(y - WING_FALL * side - 3.0) - thick, 5.0)
    wing = smooth_maximum(wing, np.maximum(z - half + 0.25 * side + 1.0, -z - 0.8 * SACRUM_LENGTH_MM + half), 5.0)
    crest = rod_distance(x, y, z, (0.0, 31.0, 4.0), (0.0, 20.0, -60.0), (4.0, 7.0, 6.0))
    bone = smooth_minimum(smooth_minimum(body, wing, 4.0), crest, 4.0)
    canal = rod_distance(x, y, z, (0.0, 0.5 * sacrum.depth + 7.0, 30.0), (0.0, 17.0, -55.0), (9.0, 5.5, 6.0))
    bone = smooth_maximum(bone, -canal, 1.5)
    for depth in (20.0, 42.0, 62.0):  # foramina for the nerves
        hole = rod_distance(side, y, z, (23.0 - 0.1 * depth, -25.0, -depth), (23.0 - 0.1 * depth, 40.0, -depth),
                            (4.5, 4.5, 4.0))  # fmt: skip
        bone = smooth_maximum(bone, -hole, 1.5)
    return np.asarray(bone, np.float32)


def _hip_distance(across: Array, y: Array, z: Array) -> Array:
    """The hip bone of one side: a flaring wing from the sacroiliac joint to the front, and the socket's block."""
    # Along the wing in the axial plane: from (46, 48) at the joint to (118, -62) at the front.
    along = math.hypot(72.0, 110.0)
    dx, dy = 72.0 / along, -110.0 / along
    run = (across - 46.0 - 0.28 * z) * dx + (y - 48.0) * dy
    off = (across - 46.0 - 0.28 * z) * -dy + (y - 48.0) * dx
    place = np.clip(run / along, -0.2, 1.2)
    crest = 6.0 + 120.0 * place * (1.0 - place) - 28.0 * place
    bulge = 26.0 * place * (1.0 - place)  # convex to the outside
    edge = np.abs(z - crest + 6.0)
    half = 3.6 + 3.2 * np.exp(-((edge / 10.0) ** 2)) + 5.5 * np.exp(-((place / 0.22) ** 2))
    lower = -70.0 - 25.0 * place
    plate = np.asarray(np.abs(off - bulge) - half, np.float32)
    wing = smooth_maximum(plate, np.maximum(z - crest, lower - z), 3.0)
    wing = smooth_maximum(wing, np.maximum(-run - 6.0, run - along), 3.0)
    ball = np.sqrt((across - 88.0) ** 2 + (y + 30.0) ** 2 + (z + 100.0) ** 2)
    socket = smooth_maximum(np.maximum(ball - 33.0, 26.0 - ball), across - 98.0, 3.0)
    return np.asarray(smooth_minimum(wing, socket, 6.0), np.float32)


def _femur_distance(across: Array, y: Array, z: Array) -> Array:
    head = np.sqrt((across - 88.0) ** 2 + (y + 30.0) ** 2 + (z + 100.0) ** 2) - 23.5
    neck = rod_distance(across, y, z, (88.0, -30.0, -100.0), (122.0, -22.0, -128.0), (14.0, 13.0, 15.0))
    shaft = rod_distance(across, y, z, (124.0, -20.0, -128.0), (118.0, -24.0, -260.0), (15.0, 15.0, 15.0))
    return np.asarray(smooth_minimum(smooth_minimum(head, neck, 4.0), shaft, 6.0), np.float32)
