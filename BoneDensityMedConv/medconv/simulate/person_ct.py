"""A whole CT of one person of a cohort, fast: each thing is drawn as finely as it needs, and only where it is.

Vertebrae lie on a grid of their own; ribs, pelvis and soft tissue, which carry no signal, on a coarser one. The CT is
made slab by slab: soft tissue once per slice, bone through the PSF in the tiles that hold bone, then the noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medconv.simulate.enumeration import VARIANTS, curve_of
from medconv.simulate.lesions import add_lesions, step_mm
from medconv.simulate.lumbar_ct import PATIENT_OFFSET_LPS_MM, SimulatedCase
from medconv.simulate.metal import drawn_metal, trunk_outline
from medconv.simulate.pelvis import add_pelvis, place_sacrum
from medconv.simulate.person import Person
from medconv.simulate.rendering import PixelGrid
from medconv.simulate.ribs import add_labelled_ribs
from medconv.simulate.segmenter_error import SegmenterError
from medconv.simulate.slabs import Layer, render_slabs
from medconv.simulate.spine import BoneField, CoarseGrid, PlacedVertebra, bounds, find_l1, rotation, sample_bone
from medconv.simulate.stopwatch import Stopwatch
from medconv.simulate.trunk import BOX_X_MM, BOX_Y_MM, body_frame, draw_soft_tissue, trunk_box
from medconv.types import CTVolume, FloatArray

SPINE_STEP_MM, TRUNK_STEP_MM = 1.75, 2.2
MATRIX = 512  # a scanner reconstructs no more pixels a side: with small ones the flanks are cut off
EDGE_MM = 6.0


def person_ct(
    person: Person,
    field_of_view_mm: tuple[float, float],
    *,
    perfect_masks: bool = False,
    watch: Stopwatch | None = None,
) -> SimulatedCase:
    """The person's CT with labels as in `SimulatedCase`: vertebrae, ribs, and sacrum and hips where they are shown.

    field_of_view_mm: lowest and highest point shown, above the centre of L1. perfect_masks: the labels of the vertebrae
    without a segmenter's errors. Raises ValueError for a field of view that is not drawn.
    """
    watch = watch or Stopwatch()
    scan, rng = person.scan, person.stream("tissue")
    low, high = _shown(person, field_of_view_mm)
    spine = person.spine(VARIANTS["usual"].levels)
    turn = rotation(*person.pose_deg) @ rotation(curve_of(VARIANTS["usual"], person.curvature)["sacrum"], 0.0, 0.0)
    sacrum = place_sacrum(person.patient, spine[-1], turn)
    frame = body_frame(person.girth, spine, sacrum)
    margin = np.array([EDGE_MM, EDGE_MM, scan.slice_thickness_mm])
    shown = [placed for placed in spine if _reaches(placed, low, high)]
    grid = _spine_grid(shown, low, high, scan.slice_thickness_mm, step_mm(SPINE_STEP_MM, person.findings))
    vertebrae = sample_bone(grid, shown, person.patient, scan, rng)
    add_lesions(vertebrae, find_l1(spine), person.findings, person.stream("lesions"))
    trunk = CoarseGrid.covering(low - margin, high + margin, TRUNK_STEP_MM)
    soft, _ = draw_soft_tissue(trunk, spine, sacrum, scan, rng, frame)
    other = BoneField.empty(trunk)
    other.trabecular_hu[:] = person.patient.trabecular_hu(scan)
    add_labelled_ribs(other, spine, person.patient, frame, VARIANTS["usual"].rib_levels)
    add_pelvis(other, sacrum)
    watch.lap("anatomy")
    pixels = PixelGrid.covering(low, high, scan)
    error = None if perfect_masks else SegmenterError.drawn(vertebrae.grid, person.stream("mask"))
    layers = (Layer(other), Layer(vertebrae, error))
    metal = drawn_metal(person.findings.metal, spine, scan, trunk_outline(person.girth), person.stream("metal"))
    hu, labels = render_slabs((trunk, soft), layers, pixels, scan, rng, watch, metal)
    ct = CTVolume(hu, pixels.geometry(scan, PATIENT_OFFSET_LPS_MM), scan.acquisition(), is_simulated=True)
    return SimulatedCase(ct, labels, person.patient.t_score, person.truth())


def _shown(person: Person, field_of_view_mm: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    """Corners of what is reconstructed: the trunk, or what fits into the scanner's matrix around the spine."""
    low, high = trunk_box(field_of_view_mm)
    half = MATRIX * person.scan.in_plane_spacing_mm / 2.0
    for axis, limits in enumerate((BOX_X_MM, BOX_Y_MM)):
        middle = sum(limits) / 2.0
        low[axis], high[axis] = max(limits[0], middle - half), min(limits[1], middle + half)
    return low, high


def _reaches(placed: PlacedVertebra, low: FloatArray, high: FloatArray) -> bool:
    lower, upper = bounds(placed, EDGE_MM)
    return bool((lower < high).all() and (upper > low).all())


def _spine_grid(
    spine: Sequence[PlacedVertebra], low: FloatArray, high: FloatArray, slice_mm: float, step_mm: float
) -> CoarseGrid:
    corners = [bounds(placed, EDGE_MM) for placed in spine]
    lowest = np.min([corner for corner, _ in corners], axis=0)
    highest = np.max([corner for _, corner in corners], axis=0)
    margin = np.array([EDGE_MM, EDGE_MM, slice_mm])
    return CoarseGrid.covering(
        np.maximum(lowest, low - margin).tolist(), np.minimum(highest, high + margin).tolist(), step_mm
    )
