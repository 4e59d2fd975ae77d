"""The spine in its pose, sampled on a coarse grid: distances, cortical thickness, marrow, and which vertebra is where.

Distances vary slowly, so 1.5 to 2 mm suffice; `rendering` brings them to the CT's grid and there turns them into
edges. Coordinates are LPS millimetres relative to the centre of the L1 body.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from medconv.simulate import vertebra
from medconv.simulate.fracture import Collapse
from medconv.simulate.patient import Patient
from medconv.simulate.physics import smooth_step
from medconv.simulate.scan import Scan
from medconv.simulate.template import Template
from medconv.simulate.vertebra import Array, VertebraShape
from medconv.types import FloatArray

# TotalSegmentator v2 "total"; it has no L6, whose number is our own (VerSe calls it 25).
LABELS = {
    "T4": 40, "T5": 39, "T6": 38, "T7": 37, "T8": 36, "T9": 35, "T10": 34, "T11": 33, "T12": 32,
    "L1": 31, "L2": 30, "L3": 29, "L4": 28, "L5": 27, "L6": 118,
}  # fmt: skip
# Of L1's surroundings and the sample; a whole spine's curve is `enumeration.draw_curve`.
TILT_STEP_DEG = {"T11": 3.0, "T12": 2.5, "L1": 0.0, "L2": -3.0, "L3": -6.0, "L4": -8.0, "L5": -12.0}
LEVELS = tuple(TILT_STEP_DEG)
FAR_MM = 40.0
SOFT_EDGE_MM = 4.0  # how far from its surface a vertebra still matters


@dataclass(frozen=True)
class CoarseGrid:
    """Sample positions along x, y and z in mm, ascending and even."""

    x_mm: FloatArray
    y_mm: FloatArray
    z_mm: FloatArray

    @staticmethod
    def covering(low_xyz: Iterable[float], high_xyz: Iterable[float], step_mm: float) -> CoarseGrid:
        """Samples every `step_mm` from one corner to the other."""
        ranges = zip(low_xyz, high_xyz, strict=True)
        return CoarseGrid(*(np.arange(low, high + step_mm, step_mm, dtype=np.float32) for low, high in ranges))

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        return len(self.z_mm), len(self.y_mm), len(self.x_mm)

    def part(self, low_xyz: FloatArray, high_xyz: FloatArray) -> tuple[slice, slice, slice]:
        """Slices (z, y, x) of the samples between two corners."""
        cuts = []
        for axis, lo, hi in zip((self.x_mm, self.y_mm, self.z_mm), low_xyz, high_xyz, strict=True):
            cuts.append(slice(int(np.searchsorted(axis, lo)), int(np.searchsorted(axis, hi, side="right"))))
        return cuts[2], cuts[1], cuts[0]


@dataclass(frozen=True)
class PlacedVertebra:
    """A vertebra in the patient: `rotation` takes its own coordinates to LPS, `center` is the body's centre.

    arch: HU of the arch's trabecular bone relative to the core's. collapse: of a fractured body. template: a real
    vertebra's surface in place of the drawn one.
    """

    level: str
    shape: VertebraShape
    center: FloatArray
    rotation: FloatArray
    arch: float = 1.25
    collapse: Collapse | None = None
    template: Template | None = None

    def own_coordinates(self, grid: CoarseGrid, part: tuple[slice, slice, slice]) -> tuple[Array, Array, Array]:
        """The grid's points in the vertebra's own coordinates, three arrays (z, y, x)."""
        z = grid.z_mm[part[0]][:, None, None] - self.center[2]
        y = grid.y_mm[part[1]][None, :, None] - self.center[1]
        x = grid.x_mm[part[2]][None, None, :] - self.center[0]
        to_own = self.rotation.T
        own = [(to_own[i, 0] * x + to_own[i, 1] * y + to_own[i, 2] * z).astype(np.float32) for i in range(3)]
        return own[0], own[1], own[2]


@dataclass
class BoneField:
    """Bone on a coarse grid, arrays (z, y, x): mm and HU. `owner` is the label of the nearest vertebra."""

    grid: CoarseGrid
    distance_mm: Array
    shell_mm: Array
    trabecular_hu: Array
    owner: NDArray[np.uint8]
    l1_distance_mm: Array

    @staticmethod
    def empty(grid: CoarseGrid) -> BoneField:
        """No bone yet."""
        far = np.full(grid.shape_zyx, FAR_MM, np.float32)
        shell, marrow = (np.zeros(grid.shape_zyx, np.float32) for _ in range(2))
        return BoneField(grid, far, shell, marrow, np.zeros(grid.shape_zyx, np.uint8), far)

    def add(self, part: tuple[slice, slice, slice], distance_mm: Array, shell_mm: float, label: int) -> None:
        """Add a bone, in place. A vertebra's own voxels stay its own: a joint is no bony bridge."""
        nearer = (distance_mm < self.distance_mm[part]) & (self.distance_mm[part] > 0.0)
        self.shell_mm[part] = np.where(nearer, shell_mm, self.shell_mm[part])
        self.owner[part] = np.where(nearer, label, self.owner[part])
        self.distance_mm[part] = np.where(nearer, distance_mm, self.distance_mm[part])


def rotation(about_x_deg: float, about_y_deg: float, about_z_deg: float) -> FloatArray:
    """Rotation matrix, x first, then y, then z."""
    a, b, c = (math.radians(v) for v in (about_x_deg, about_y_deg, about_z_deg))
    rx = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    ry = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    rz = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return np.asarray(rz @ ry @ rx)


def place_spine(
    patient: Patient, pose: FloatArray, levels: Sequence[str] = LEVELS, tilt_deg: Mapping[str, float] = TILT_STEP_DEG
) -> list[PlacedVertebra]:
    """Vertebrae stacked from L1 up and down along a curve, the whole turned by `pose` (3 x 3).

    tilt_deg: every level from above to below, and by how much its upper side leans forward; `levels` are returned.
    """
    stack = tuple(tilt_deg)
    turns = {level: pose @ rotation(tilt_deg[level], 0.0, 0.0) for level in stack}
    start = stack.index("L1")
    centers = {"L1": np.zeros(3)}
    for upper, lower in pairwise(stack[start:]):
        centers[lower] = centers[upper] - _step(patient, turns, upper, lower)
    for lower, upper in pairwise(stack[start::-1]):
        centers[upper] = centers[lower] + _step(patient, turns, upper, lower)
    return [PlacedVertebra(v, patient.shape.at_level(v), centers[v], turns[v]) for v in levels]


def find_l1(spine: Sequence[PlacedVertebra]) -> PlacedVertebra:
    """L1 of a spine that has one."""
    return next(placed for placed in spine if placed.level == "L1")


def sample_bone(
    grid: CoarseGrid, spine: Sequence[PlacedVertebra], patient: Patient, scan: Scan, rng: np.random.Generator
) -> BoneField:
    """Distances, shell and marrow of all vertebrae. Needs L1 in `spine`."""
    shape = grid.shape_zyx
    core_hu = np.float32(patient.trabecular_hu(scan))
    distance = np.full(shape, FAR_MM, np.float32)
    others = np.full(shape, FAR_MM, np.float32)
    l1 = np.full(shape, FAR_MM, np.float32)
    shell = np.full(shape, patient.shell_body_mm, np.float32)
    relative = np.ones(shape, np.float32)
    owner = np.zeros(shape, np.uint8)
    for placed in spine:
        part = grid.part(*bounds(placed, SOFT_EDGE_MM))
        if any(cut.stop <= cut.start for cut in part):
            continue
        own, own_shell, own_relative = _one_vertebra(grid, part, placed, patient)
        nearer = own < distance[part]
        shell[part] = np.where(nearer, own_shell, shell[part])
        relative[part] = np.where(nearer, own_relative, relative[part])
        owner[part] = np.where(nearer, LABELS[placed.level], owner[part])
        distance[part] = np.minimum(distance[part], own)
        target = l1 if placed.level == "L1" else others
        target[part] = np.minimum(target[part], own)
    relative_hu = core_hu * relative + _texture(shape, grid, patient, rng)
    return BoneField(grid, distance, shell, relative_hu, owner, np.maximum(l1, 0.5 * (l1 - others)))


def _one_vertebra(
    grid: CoarseGrid, part: tuple[slice, slice, slice], placed: PlacedVertebra, patient: Patient
) -> tuple[Array, Array, Array]:
    """Distance, shell thickness and trabecular HU relative to the core's, of one vertebra."""
    x, y, z = placed.own_coordinates(grid, part)
    arch = vertebra.arch_distance(x, y, z, placed.shape)
    compaction: Array | None = None
    if placed.collapse is not None:
        z, compaction = placed.collapse.undone(x, y, z, placed.shape)
    body = vertebra.body_distance(x, y, z, placed.shape, compaction)
    distance = vertebra.smooth_minimum(body, arch, 3.0)
    if placed.template is not None:
        distance, body, arch = placed.template.distances(x, y, z)
    in_arch = smooth_step(arch - body, 3.0)
    vein = smooth_step(vertebra.vein_distance(x, y, z, placed.shape), 0.9)
    shell = (patient.shell_body_mm + in_arch * (patient.shell_arch_mm - patient.shell_body_mm)) * (1.0 - vein)
    # Denser towards the endplates and in the arch; mean over the middle half of the body is 1.
    ends = np.minimum((2.0 * z / placed.shape.height) ** 2, 1.0)
    body_relative = 1.0 + 0.12 * (ends - 0.1) + placed.shape.sclerosis * ends**5
    if placed.collapse is not None and compaction is not None:
        body_relative = placed.collapse.compacted(body_relative, compaction, z, placed.shape)
    relative = (body_relative + in_arch * (placed.arch - body_relative)) * (1.0 - 0.5 * vein)
    return distance.astype(np.float32), shell.astype(np.float32), relative.astype(np.float32)


def _texture(shape: tuple[int, int, int], grid: CoarseGrid, patient: Patient, rng: np.random.Generator) -> Array:
    """The trabecular pattern: a Gaussian random field, longer along the spine, SD as the patient's."""
    from scipy.ndimage import gaussian_filter

    step = float(grid.x_mm[1] - grid.x_mm[0])
    sigma = (2.2 / step, 1.5 / step, 1.5 / step)
    field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap", truncate=3.0)
    return np.asarray(field * np.float32(patient.texture_sd_hu / float(field.std())), np.float32)


def bounds(placed: PlacedVertebra, margin_mm: float) -> tuple[FloatArray, FloatArray]:
    """Lower and upper corner (LPS mm) of a box that holds the vertebra with a margin around."""
    s = placed.shape
    back = s.depth / 2.0 + s.canal_depth + s.spinous_length + 4.0
    side = 0.33 * s.width + s.transverse_length + 5.0
    low = np.array([-side, -0.58 * s.depth, -1.15 * s.height])
    high = np.array([side, back, 0.95 * s.height])
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1)
    turned = placed.rotation @ corners + placed.center[:, None]
    return turned.min(axis=1) - margin_mm, turned.max(axis=1) + margin_mm


def _step(patient: Patient, turns: Mapping[str, FloatArray], upper: str, lower: str) -> FloatArray:
    """From the centre of one body up to that of the next, along the mean of their axes."""
    half = [patient.shape.at_level(level).height / 2.0 for level in (upper, lower)]
    axis = (turns[upper] + turns[lower])[:, 2]
    return np.asarray((sum(half) + vertebra.DISC_BELOW_MM[upper]) * axis / np.linalg.norm(axis))
