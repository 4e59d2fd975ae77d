"""Where every vertebra and landmark of a segmentation lies: centres, volumes, pieces, borders, contacts.

All is measured on the labels thinned to voxels of at most 2 mm: a centre or a volume does not need more, and a trunk
of 512 x 512 x 400 voxels takes a fraction of a second. Only the border is judged on the labels as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.grid import index3
from medconv.types import BoolArray, FloatArray, ImageGeometry, Index3, SpineSegmentation, Vector3
from medconv.vertebrae import LEAST_VERTEBRA_ML, LUMBAR, ORDER, SACRUM, is_vertebra
from medconv.vertebral_body import MINOR_PIECE_FRACTION, core_center

COARSE_MM = 2.0
BORDER_MM = 1.5  # half a voxel of the 3 mm network: a mask that ends nearer to the border was cut by it
STRAY_ML = 1.0  # a twelfth rib has 5 ml or more: smaller specks are no structure
RIB_REACH_MM = 15.0  # farther from every vertebra, the rib's head is not in view
CLEARLY_NEARER_MM = 4.0  # heads lie near the upper edge of their vertebra: a smaller difference tells nothing
IntArray = NDArray[np.int_]
LAST_RIB = re.compile("rib_(left|right)_1[1-3]")
LIVER = "liver"
GIVEN = "existing"  # what `SpineSegmentation.segmenter` calls a mask that a person gave


@dataclass(frozen=True)
class Structure:
    """One labelled structure: its largest piece on the thinned grid, where it starts at voxel `start_xyz`.

    volumes_ml: of all its pieces, largest first; centers_lps_mm: of those with more than 5 % of it.
    """

    name: str
    label: int
    piece_zyx: BoolArray = field(repr=False)
    start_xyz: Index3
    grid: ImageGeometry = field(repr=False)
    volumes_ml: tuple[float, ...]
    centers_lps_mm: tuple[FloatArray, ...] = field(repr=False)

    def points_lps_mm(self) -> FloatArray:
        """The centres of its voxels, shape (n, 3)."""
        return self.grid.index_to_lps(np.argwhere(self.piece_zyx)[:, ::-1] + np.asarray(self.start_xyz))

    def distance_mm(self, point_lps_mm: FloatArray) -> float:
        """From a point to its nearest voxel."""
        return float(np.linalg.norm(self.points_lps_mm() - point_lps_mm, axis=1).min())


@dataclass(frozen=True)
class FoundLevel:
    """A vertebra by the segmenter's name; all figures but the last three are those of its largest connected piece.

    pieces: how many there are with more than 5 % of the label. apart: the share of the label outside the largest.
    apart_mm: how far above or below the largest piece's centre that of the second lies. box_start_xyz and box_size_xyz:
    voxels of the CT that hold the largest piece.
    """

    name: str
    center_lps_mm: Vector3
    body_center_lps_mm: Vector3
    volume_ml: float
    touches_border: bool
    box_start_xyz: Index3
    box_size_xyz: Index3
    pieces: int = 1
    apart: float = 0.0
    apart_mm: float = 0.0

    @property
    def body(self) -> FloatArray:
        """`body_center_lps_mm` to calculate with."""
        return np.asarray(self.body_center_lps_mm)


@dataclass(frozen=True)
class Spine:
    """All that the level check looks at.

    levels: by their names from cranial to caudal. landmarks: by name. contacts_mm2: the largest area in which two
    vertebrae touch along one axis, by their names. rib_levels: rib → the level that its head lies at, where that is
    clear. known: the names that the segmenter can give; of a mask that a person gave, those that it holds.
    sacrum_below_mm: from the body of the lowest lumbar vertebra to the sacrum. top_mm: the CT's upper end (superior).
    """

    levels: tuple[FoundLevel, ...]
    landmarks: Mapping[str, Structure]
    contacts_mm2: Mapping[tuple[str, str], float]
    rib_levels: Mapping[str, str]
    known: frozenset[str]
    sacrum_below_mm: float | None
    top_mm: float

    def level(self, name: str) -> FoundLevel | None:
        """The level of that name, or None."""
        return next((level for level in self.levels if level.name == name), None)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(level.name for level in self.levels)


def find_spine(segmentation: SpineSegmentation) -> Spine:
    """Measure all vertebrae and landmarks of a segmentation."""
    labels, grid, stride = _thinned(segmentation)
    structures = {s.name: s for s in _structures(segmentation, labels, grid)}
    vertebrae = [structures[name] for name in ORDER if name in structures]
    levels = tuple(_found_level(s, segmentation, stride) for s in vertebrae)
    ct = segmentation.ct_geometry
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in ct.size_xyz])).reshape(3, -1).T
    return Spine(
        levels=levels,
        landmarks={name: s for name, s in structures.items() if not is_vertebra(name)},
        contacts_mm2=_contacts(labels, grid, vertebrae),
        rib_levels=_rib_levels(structures, levels),
        known=frozenset(structures if segmentation.segmenter == GIVEN else segmentation.names.values()),
        sacrum_below_mm=_sacrum_below(structures, levels),
        top_mm=float(ct.index_to_lps(corners)[:, 2].max()),
    )


def _thinned(segmentation: SpineSegmentation) -> tuple[NDArray[np.uint8], ImageGeometry, Index3]:
    """Every n-th voxel along each axis, so that voxels have at most 2 mm; their grid, and n for x, y, z."""
    g = segmentation.geometry
    stride = index3(np.maximum(1, np.floor(COARSE_MM / np.asarray(g.spacing_mm_xyz) + 1e-6)))
    labels = np.ascontiguousarray(segmentation.labels_zyx[:: stride[2], :: stride[1], :: stride[0]])
    x, y, z = (float(s * n) for s, n in zip(g.spacing_mm_xyz, stride, strict=True))
    size = index3(np.asarray(labels.shape[::-1]))
    return labels, ImageGeometry(size, (x, y, z), g.origin_lps_mm, g.direction), stride


def _structures(
    segmentation: SpineSegmentation, labels_zyx: NDArray[np.uint8], grid: ImageGeometry
) -> Iterator[Structure]:
    """The structures that matter here."""
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.ComputePerimeterOff()
    shape.Execute(sitk.GetImageFromArray(labels_zyx))
    for label in shape.GetLabels():
        name = segmentation.names.get(label, "")
        if not (is_vertebra(name) or name in (SACRUM, LIVER) or LAST_RIB.fullmatch(name)):
            continue
        x, y, z, width, height, depth = shape.GetBoundingBox(label)
        box = labels_zyx[z : z + depth, y : y + height, x : x + width] == label
        found = _structure(name, label, box, (x, y, z), grid)
        if found.volumes_ml[0] >= (LEAST_VERTEBRA_ML if is_vertebra(name) else STRAY_ML):
            yield found


def _structure(name: str, label: int, box_zyx: BoolArray, start_xyz: Index3, grid: ImageGeometry) -> Structure:
    components = sitk.ConnectedComponent(sitk.GetImageFromArray(box_zyx.astype(np.uint8)), True)
    pieces = sitk.GetArrayFromImage(sitk.RelabelComponent(components, sortByObjectSize=True))
    sizes = np.bincount(pieces.ravel())[1:]
    kept = [n for n, size in enumerate(sizes, 1) if size > MINOR_PIECE_FRACTION * sizes.sum()] or [1]
    centers = [np.argwhere(pieces == n).mean(axis=0)[::-1] + np.asarray(start_xyz) for n in kept]
    held = np.argwhere(pieces == 1)
    low, high = held.min(axis=0), held.max(axis=0) + 1
    return Structure(
        name=name,
        label=label,
        piece_zyx=(pieces == 1)[low[0] : high[0], low[1] : high[1], low[2] : high[2]],
        start_xyz=index3(low[::-1] + np.asarray(start_xyz)),
        grid=grid,
        volumes_ml=tuple(float(size) * grid.voxel_volume_ml for size in sizes),
        centers_lps_mm=tuple(grid.index_to_lps(center) for center in centers),
    )


def _found_level(structure: Structure, segmentation: SpineSegmentation, stride_xyz: Index3) -> FoundLevel:
    grid = structure.grid
    body = grid.index_to_lps(core_center(structure.piece_zyx, grid.spacing_mm_xyz) + np.asarray(structure.start_xyz))
    centers = structure.centers_lps_mm
    low, high = _box(structure, segmentation, stride_xyz)
    start = index3(low + np.asarray(segmentation.start_xyz))
    return FoundLevel(
        name=structure.name,
        center_lps_mm=_vector(centers[0]),
        body_center_lps_mm=_vector(body),
        volume_ml=structure.volumes_ml[0],
        touches_border=_touches_border(structure.label, segmentation, low, high),
        box_start_xyz=start,
        box_size_xyz=index3(high - low),
        pieces=len(centers),
        apart=1.0 - structure.volumes_ml[0] / sum(structure.volumes_ml),
        apart_mm=abs(float(centers[1][2] - centers[0][2])) if len(centers) > 1 else 0.0,
    )


def _box(structure: Structure, segmentation: SpineSegmentation, stride_xyz: Index3) -> tuple[IntArray, IntArray]:
    """First voxel (x, y, z) in the labels and the one after the last of a box that holds the structure."""
    first, stride = np.asarray(structure.start_xyz), np.asarray(stride_xyz)
    after = first + structure.piece_zyx.shape[::-1]
    whole = np.asarray(segmentation.labels_zyx.shape[::-1])
    return np.maximum((first - 1) * stride, 0), np.minimum((after + 1) * stride, whole)


def _touches_border(label: int, segmentation: SpineSegmentation, low: IntArray, high: IntArray) -> bool:
    """True if the label reaches the CT's outermost 1.5 mm (at least its outermost voxels)."""
    ct = segmentation.ct_geometry
    near = segmentation.labels_zyx[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
    for axis in range(3):
        layers = max(1, int(BORDER_MM / ct.spacing_mm_xyz[axis] + 1e-6))
        first = segmentation.start_xyz[axis] + int(low[axis])  # the CT's number of the first layer of `near`
        lines = np.moveaxis(near, 2 - axis, 0)
        below, above = layers - first, ct.size_xyz[axis] - layers - first
        if (lines[: max(below, 0)] == label).any() or (lines[max(above, 0) :] == label).any():
            return True
    return False


def _contacts(
    labels_zyx: NDArray[np.uint8], grid: ImageGeometry, vertebrae: Sequence[Structure]
) -> dict[tuple[str, str], float]:
    if not vertebrae:
        return {}
    names = {s.label: s.name for s in vertebrae}
    keep = np.zeros(256, np.uint8)
    keep[list(names)] = list(names)
    low = np.min([s.start_xyz for s in vertebrae], axis=0)[::-1]
    high = np.max([np.add(s.start_xyz[::-1], s.piece_zyx.shape) for s in vertebrae], axis=0)
    spine = keep[labels_zyx[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]]
    found: dict[tuple[str, str], float] = {}
    for axis in range(3):
        lines = np.moveaxis(spine, axis, 0)
        one, other = lines[1:], lines[:-1]
        touching = (one != other) & (one > 0) & (other > 0)
        face_mm2 = 1000.0 * grid.voxel_volume_ml / grid.spacing_mm_xyz[2 - axis]
        pairs, counts = np.unique(np.sort([one[touching], other[touching]], axis=0), axis=1, return_counts=True)
        for (a, b), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            upper, lower = sorted((names[a], names[b]), key=ORDER.index)
            found[upper, lower] = max(found.get((upper, lower), 0.0), count * face_mm2)
    return found


def _rib_levels(structures: Mapping[str, Structure], levels: Sequence[FoundLevel]) -> dict[str, str]:
    """For each rib the vertebra that its head lies at, unless two are about as near or the head is out of view."""
    bodies = np.array([level.body_center_lps_mm for level in levels])
    result = {}
    for name, rib in structures.items():
        if not LAST_RIB.fullmatch(name) or not len(bodies):
            continue
        points = rib.points_lps_mm()
        to_bodies = np.linalg.norm(points[:, None] - bodies[None], axis=2)
        head = points[int(to_bodies.min(axis=1).argmin())]
        near = sorted((structures[level.name].distance_mm(head), level.name) for level in levels)
        if near[0][0] <= RIB_REACH_MM and (len(near) == 1 or near[1][0] - near[0][0] >= CLEARLY_NEARER_MM):
            result[name] = near[0][1]
    return result


def _sacrum_below(structures: Mapping[str, Structure], levels: Sequence[FoundLevel]) -> float | None:
    lumbar = [level for level in levels if level.name in LUMBAR]
    below = [structures[name] for name in (SACRUM, "S1") if name in structures]
    return min(s.distance_mm(lumbar[-1].body) for s in below) if lumbar and below else None


def _vector(point: FloatArray) -> Vector3:
    x, y, z = (float(v) for v in point)
    return x, y, z
