"""Crops-only simulation: L1's neighbourhood as a scanner and a segmenter deliver it, fast enough for thousands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medconv.simulate.cohort import CohortModel
from medconv.simulate.lesions import add_lesions, step_mm
from medconv.simulate.metal import drawn_metal, trunk_outline
from medconv.simulate.patient import Patient, draw_patient
from medconv.simulate.person import Person
from medconv.simulate.rendering import PixelGrid, interpolation, render_ct, upsample
from medconv.simulate.scan import Scan, draw_scan
from medconv.simulate.segmenter_error import SegmenterError
from medconv.simulate.soft_tissue import sample_soft_tissue
from medconv.simulate.spine import (
    BoneField,
    CoarseGrid,
    PlacedVertebra,
    bounds,
    find_l1,
    place_spine,
    rotation,
    sample_bone,
)
from medconv.simulate.stopwatch import Stopwatch
from medconv.simulate.vertebra import Array
from medconv.types import BoolArray, CTVolume, FloatArray, L1Case

COARSE_STEP_MM = 1.75
NEIGHBOURS = ("T12", "L1", "L2")
POSE_SD_DEG = (7.0, 3.5, 4.0)  # about x (kyphosis), y (scoliosis), z (turning on the table)


def simulate_l1_case(
    seed: int | np.random.Generator = 0,
    *,
    cohort: CohortModel | None = None,
    scan: Scan | None = None,
    t_score: float | None = None,
    perfect_mask: bool = False,
    margin_mm: float = 7.0,
) -> tuple[L1Case, dict[str, float | str]]:
    """L1 with its neighbours at the scan's own grid, and every hidden variable.

    seed: an integer, or a generator to draw from. scan: drawn at random if None. t_score: fixes the T-score.
    perfect_mask: without a segmenter's errors. margin_mm: what is shown around L1; masked crops need little.
    The same arguments give the same voxels.
    """
    rng = np.random.default_rng(seed)
    patient = draw_patient(rng, cohort or CohortModel(), t_score)
    drawn = draw_scan(rng)
    scan = scan or drawn
    pose = rotation(*(sd * float(v) for sd, v in zip(POSE_SD_DEG, rng.standard_normal(3), strict=True)))
    spine = place_spine(patient, pose, NEIGHBOURS)
    case = _scanned(patient, scan, spine, (rng, rng), perfect_mask, margin_mm)
    return case, patient.truth(scan)


def person_l1_case(
    person: Person, *, perfect_mask: bool = False, margin_mm: float = 7.0, watch: Stopwatch | None = None
) -> L1Case:
    """L1's neighbourhood of one person of a cohort, as `simulate_l1_case` shows it."""
    streams = person.stream("tissue"), person.stream("mask")
    spine = person.spine(NEIGHBOURS)
    outline = trunk_outline(person.girth)
    metal = drawn_metal(person.findings.metal, spine, person.scan, outline, person.stream("metal"))

    def add(bone: BoneField) -> None:
        add_lesions(bone, find_l1(spine), person.findings, person.stream("lesions"))

    found = Additions(step_mm(COARSE_STEP_MM, person.findings), add, metal)
    return _scanned(person.patient, person.scan, spine, streams, perfect_mask, margin_mm, found, watch)


@dataclass(frozen=True)
class Additions:
    """What a person's findings add: a grid fine enough, changes of L1's marrow, metal in the CT."""

    step_mm: float = COARSE_STEP_MM
    to_bone: Callable[[BoneField], None] | None = None
    to_ct: Callable[[Array, PixelGrid], None] | None = None


def _scanned(
    patient: Patient,
    scan: Scan,
    spine: Sequence[PlacedVertebra],
    streams: tuple[np.random.Generator, np.random.Generator],
    perfect_mask: bool,
    margin_mm: float,
    found: Additions | None = None,
    watch: Stopwatch | None = None,
) -> L1Case:
    """The case of a spine in its pose; `streams` are those of the tissue and of the mask's errors."""
    rng, of_mask = streams
    watch, found = watch or Stopwatch(), found or Additions()
    low, high = bounds(find_l1(spine), margin_mm)
    edge = np.array([2.0, 2.0, 2.0 + 2.0 * scan.slice_thickness_mm])
    grid = CoarseGrid.covering(low - edge, high + edge, found.step_mm)
    bone = sample_bone(grid, spine, patient, scan, rng)
    if found.to_bone is not None:
        found.to_bone(bone)
    soft = sample_soft_tissue(grid, spine, scan, rng, with_organs=False)
    watch.lap("anatomy")
    spacing = np.array([scan.in_plane_spacing_mm, scan.in_plane_spacing_mm, scan.slice_increment_mm])
    shift = rng.uniform(-0.5, 0.5, 3) * spacing  # where the grid happens to lie
    low, high = _extent(bone, np.maximum(margin_mm, 2.5 * spacing + 1.5))
    pixels = PixelGrid.covering(low + shift, high + shift, scan)
    hu = render_ct(bone, soft, pixels, scan, rng, found.to_ct)
    watch.lap("scan")
    mask = _true_mask(bone, pixels) if perfect_mask else _segmented_mask(bone, pixels, of_mask)
    watch.lap("mask")
    ct = CTVolume(hu, pixels.geometry(scan), scan.acquisition(), source="simulated L1", is_simulated=True)
    return as_case(ct, mask)


def as_case(ct: CTVolume, mask_zyx: BoolArray) -> L1Case:
    """CT and mask as the case that the analysis takes. Raises ValueError if the mask is empty."""
    found = np.nonzero(mask_zyx)
    if not len(found[0]):
        raise ValueError("the simulated L1 mask is empty")
    x, y, z = ct.geometry.index_to_lps([float(found[axis].mean()) for axis in (2, 1, 0)])
    touches = any(i.min() == 0 or i.max() == n - 1 for i, n in zip(found, mask_zyx.shape, strict=True))
    volume = len(found[0]) * ct.geometry.voxel_volume_ml
    return L1Case(ct, mask_zyx, (float(x), float(y), float(z)), volume, bool(touches))


def _extent(bone: BoneField, margin_mm: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Corners of the box that holds L1 with a margin along x, y and z, mm."""
    found = np.nonzero(bone.l1_distance_mm < 0.0)
    axes = (bone.grid.x_mm, bone.grid.y_mm, bone.grid.z_mm)
    low = [float(axis[i.min()]) for axis, i in zip(axes, found[::-1], strict=True)]
    high = [float(axis[i.max()]) for axis, i in zip(axes, found[::-1], strict=True)]
    return np.array(low) - margin_mm, np.array(high) + margin_mm


def _true_mask(bone: BoneField, pixels: PixelGrid) -> BoolArray:
    return np.asarray(_l1_distance(bone.l1_distance_mm, bone, pixels.x_mm, pixels.y_mm, pixels.z_mm) < 0.0)


def _segmented_mask(bone: BoneField, pixels: PixelGrid, rng: np.random.Generator) -> BoolArray:
    error = SegmenterError.drawn(bone.grid, rng)
    axes = [error.positions(axis) for axis in (pixels.x_mm, pixels.y_mm, pixels.z_mm)]
    return np.asarray(_l1_distance(error.distance(bone.l1_distance_mm), bone, *axes) < 0.0)


def _l1_distance(
    field: NDArray[np.float32], bone: BoneField, x_mm: FloatArray, y_mm: FloatArray, z_mm: FloatArray
) -> NDArray[np.float32]:
    grid = bone.grid
    to_z, to_y = interpolation(grid.z_mm, z_mm), interpolation(grid.y_mm, y_mm)
    return upsample(field, to_z, to_y, interpolation(grid.x_mm, x_mm))
