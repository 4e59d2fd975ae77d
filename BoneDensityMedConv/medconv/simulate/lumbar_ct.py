"""A whole simulated CT of the thoracolumbar spine in its abdomen, with a label map and every hidden variable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medconv.simulate import scan as scanning
from medconv.simulate.cohort import CohortModel
from medconv.simulate.patient import Patient, draw_patient
from medconv.simulate.rendering import PixelGrid, interpolation, render_ct, upsample
from medconv.simulate.ribs import add_ribs
from medconv.simulate.scan import Scan
from medconv.simulate.soft_tissue import sample_soft_tissue
from medconv.simulate.spine import BoneField, CoarseGrid, place_spine, rotation, sample_bone
from medconv.types import CTVolume

COARSE_STEP_MM = 1.6
BOX_X_MM, BOX_Y_MM = (-162.0, 162.0), (-136.0, 96.0)
SHOWN_FROM_MM, SHOWN_TO_MM = -125.0, 74.0  # from the body of L4 to that of T11, relative to the centre of L1
POSE_SD_DEG = (2.0, 1.5, 1.5)
# A patient lies off the scanner's isocentre; not round, so that code that mixes up origins shows.
PATIENT_OFFSET_LPS_MM = (4.6, -31.2, -412.5)


@dataclass(frozen=True)
class SimulatedCase:
    """`labels_zyx` (uint8, on the CT's grid) uses TotalSegmentator v2's numbers: 28 L4 … 31 L1, 32 T12, 33 T11."""

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
) -> SimulatedCase:
    """A CT from T11 to L4 with air around the body, HU as int16, axes to the patient's left, posterior, superior.

    The same arguments give the same voxels; another seed is another patient. `t_score` fixes the T-score and leaves
    the rest of the patient to chance. Raises ValueError for a kVp, kernel, phase or spacing that has no meaning.
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
    bone, soft = _anatomy(patient, scan, rng)
    low = np.array([BOX_X_MM[0], BOX_Y_MM[0], SHOWN_FROM_MM])
    high = np.array([BOX_X_MM[1], BOX_Y_MM[1], SHOWN_TO_MM])
    pixels = PixelGrid.covering(low, high, scan)
    hu = render_ct(bone, soft, pixels, scan, rng)
    geometry = pixels.geometry(scan, PATIENT_OFFSET_LPS_MM)
    ct = CTVolume(hu, geometry, scan.acquisition(), source=f"simulated CT, seed {seed}", is_simulated=True)
    return SimulatedCase(ct, _labels(bone, pixels), patient.t_score, patient.truth(scan))


def _anatomy(patient: Patient, scan: Scan, rng: np.random.Generator) -> tuple[BoneField, NDArray[np.float32]]:
    """Bone with ribs, and soft tissue, on the coarse grid."""
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
    return bone, soft


def _labels(bone: BoneField, pixels: PixelGrid) -> NDArray[np.uint8]:
    """The vertebra at every voxel of the CT; 0 outside, and in ribs."""
    distance = upsample(
        bone.distance_mm,
        interpolation(bone.grid.z_mm, pixels.z_mm),
        interpolation(bone.grid.y_mm, pixels.y_mm),
        interpolation(bone.grid.x_mm, pixels.x_mm),
    )
    nearest = [
        np.clip(np.rint((fine - coarse[0]) / (coarse[1] - coarse[0])).astype(int), 0, len(coarse) - 1)
        for fine, coarse in (
            (pixels.z_mm, bone.grid.z_mm), (pixels.y_mm, bone.grid.y_mm), (pixels.x_mm, bone.grid.x_mm)
        )
    ]  # fmt: skip
    return np.where(distance < 0.0, bone.owner[np.ix_(*nearest)], 0).astype(np.uint8)
