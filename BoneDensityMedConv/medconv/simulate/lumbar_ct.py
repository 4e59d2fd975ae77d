"""A whole simulated CT of the spine in its trunk, with a label map and every hidden variable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medconv.simulate import scan as scanning
from medconv.simulate.cohort import CohortModel
from medconv.simulate.enumeration import find_variant
from medconv.simulate.patient import Patient, draw_patient
from medconv.simulate.rendering import PixelGrid, interpolation, render_ct, upsample
from medconv.simulate.ribs import add_ribs
from medconv.simulate.scan import Scan
from medconv.simulate.soft_tissue import sample_soft_tissue
from medconv.simulate.spine import CoarseGrid, place_spine, rotation, sample_bone
from medconv.simulate.trunk import LIVER, Anatomy, draw_trunk, trunk_box
from medconv.types import CTVolume, FloatArray

COARSE_STEP_MM = 1.6
BOX_X_MM, BOX_Y_MM = (-162.0, 162.0), (-136.0, 96.0)
SHOWN_FROM_MM, SHOWN_TO_MM = -125.0, 74.0  # from the body of L4 to that of T11, relative to the centre of L1
FROM_T8_TO_SACRUM_MM = (-265.0, 175.0)
POSE_SD_DEG = (2.0, 1.5, 1.5)
# A patient lies off the scanner's isocentre; not round, so that code that mixes up origins shows.
PATIENT_OFFSET_LPS_MM = (4.6, -31.2, -412.5)


@dataclass(frozen=True)
class SimulatedCase:
    """`labels_zyx` (uint8, on the CT's grid) uses TotalSegmentator v2's numbers: 28 L4 … 31 L1, 32 T12, 33 T11.

    With a field of view also 25 sacrum, 26 S1, 27 L5, 34 T10 …, ribs 92..103 (left) and 104..115 (right), hips 77 and
    78, femora 75 and 76, liver 5; and, which that map lacks, 118 L6, 119 and 120 the ribs of L1 (left, right).
    """

    ct: CTVolume
    labels_zyx: NDArray[np.uint8]
    t_score: float
    truth: dict[str, float | str]


def simulate_lumbar_ct(
    seed: int = 0,
    *,
    t_score: float | None = None,
    cohort: CohortModel | None = None,
    kvp: float = 120.0,
    in_plane_spacing_mm: float = 0.9,
    slice_thickness_mm: float = 1.5,
    kernel: str = "soft",
    phase: str = "native",
    field_of_view_mm: tuple[float, float] | None = None,
    variant: str = "usual",
) -> SimulatedCase:
    """A CT with air around the body, HU as int16, axes to the patient's left, posterior, superior.

    The same arguments give the same voxels; another seed is another patient. `t_score` fixes the T-score and leaves
    the rest of the patient to chance.
    field_of_view_mm: lowest and highest point shown, above the centre of L1 (for instance `FROM_T8_TO_SACRUM_MM`); the
    person is then drawn from the fourth thoracic vertebra to the thighs, with labelled ribs, pelvis and liver. Without
    it, the spine's sketch from T11 to L4 that the sample case shows.
    variant: one of `enumeration.VARIANTS`; any but the usual one needs a field of view.
    Raises ValueError for a kVp, kernel, phase, spacing, variant or field of view that has no meaning.
    """
    rng = np.random.default_rng(seed)
    patient = draw_patient(rng, cohort or CohortModel(), t_score)
    scan = Scan(
        kvp=kvp,
        in_plane_spacing_mm=in_plane_spacing_mm,
        slice_thickness_mm=slice_thickness_mm,
        slice_increment_mm=slice_thickness_mm,
        kernel=kernel,
        noise_hu=scanning.expected_noise_hu(kvp, slice_thickness_mm, kernel),
        phase=phase,
        contrast_offset_hu=scanning.contrast_offset_hu(rng, phase),
    )
    anatomy, box = _drawn(patient, scan, rng, field_of_view_mm, variant)
    pixels = PixelGrid.covering(*box, scan)
    hu = render_ct(anatomy.bone, anatomy.soft_hu, pixels, scan, rng)
    geometry = pixels.geometry(scan, PATIENT_OFFSET_LPS_MM)
    ct = CTVolume(hu, geometry, scan.acquisition(), source=f"simulated CT, seed {seed}", is_simulated=True)
    truth = patient.truth(scan) | ({} if field_of_view_mm is None else {"variant": variant})
    return SimulatedCase(ct, _labels(anatomy, pixels), patient.t_score, truth)


def _drawn(
    patient: Patient, scan: Scan, rng: np.random.Generator, field_of_view_mm: tuple[float, float] | None, variant: str
) -> tuple[Anatomy, tuple[FloatArray, FloatArray]]:
    """The anatomy asked for, and the corners of the box that is shown of it."""
    chosen = find_variant(variant)
    if field_of_view_mm is not None:
        box = trunk_box(field_of_view_mm)
        return draw_trunk(patient, scan, rng, chosen, *box), box
    if variant != "usual":
        raise ValueError(f"the variant '{variant}' needs field_of_view_mm")
    low = np.array([BOX_X_MM[0], BOX_Y_MM[0], SHOWN_FROM_MM])
    return _sketch(patient, scan, rng), (low, np.array([BOX_X_MM[1], BOX_Y_MM[1], SHOWN_TO_MM]))


def _sketch(patient: Patient, scan: Scan, rng: np.random.Generator) -> Anatomy:
    """T11 to L4 with ribs that have no label, and soft tissue."""
    margin = scan.slice_thickness_mm
    grid = CoarseGrid.covering(
        (BOX_X_MM[0], BOX_Y_MM[0], SHOWN_FROM_MM - margin), (BOX_X_MM[1], BOX_Y_MM[1], SHOWN_TO_MM + margin),
        COARSE_STEP_MM,
    )  # fmt: skip
    pose = rotation(*(sd * float(v) for sd, v in zip(POSE_SD_DEG, rng.standard_normal(3), strict=True)))
    spine = place_spine(patient, pose)
    bone = sample_bone(grid, spine, patient, scan, rng)
    soft = sample_soft_tissue(grid, spine, scan, rng, with_organs=True)
    add_ribs(bone, spine, patient)
    return Anatomy(bone, soft)


def _labels(anatomy: Anatomy, pixels: PixelGrid) -> NDArray[np.uint8]:
    """The structure at every voxel of the CT; 0 outside, and in the sketch's ribs."""
    grid = anatomy.bone.grid
    pairs = ((pixels.z_mm, grid.z_mm), (pixels.y_mm, grid.y_mm), (pixels.x_mm, grid.x_mm))
    to_fine = [interpolation(coarse, fine) for fine, coarse in pairs]
    nearest = [
        np.clip(np.rint((fine - coarse[0]) / (coarse[1] - coarse[0])).astype(int), 0, len(coarse) - 1)
        for fine, coarse in pairs
    ]
    distance = upsample(anatomy.bone.distance_mm, *to_fine)
    labels = np.where(distance < 0.0, anatomy.bone.owner[np.ix_(*nearest)], 0).astype(np.uint8)
    if anatomy.liver_mm is not None:
        labels[(labels == 0) & (distance > 0.0) & (upsample(anatomy.liver_mm, *to_fine) < 0.0)] = LIVER
    return labels
