"""Can this vertebra's density be read at all? Metal and cement, fracture, sclerosis, focal lesions.

Height loss is Genant's: 1 − min(anterior, middle) / posterior height of the body; 20 to 25 % mild, 25 to 40 % moderate,
above 40 % severe (Genant 1993). Heights are those of the mask, on the midline, in the body's own axes. Against the
known shape of 148 simulated vertebrae the loss has an error (SD) of 0.03 to 0.05 with slices up to 2.5 mm, 0.05 with
3 mm and 0.10 with 5 mm, about half a slice in the posterior height; with thick slices nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.attenuation import EROSION_MM, refuse_metal
from medconv.grid import canonical, to_image
from medconv.types import Attenuation, BoolArray, ImageGeometry, InputRefused, L1Case, QualityNote, Severity
from medconv.vertebral_body import ORIENTATION_REMEDY, UprightBody, upright_body

# Where the heights are taken, as shares of the body's depth from its front; the outermost tenth is rim and osteophyte.
ANTERIOR, MIDDLE, POSTERIOR = (0.10, 0.25), (0.40, 0.60), (0.75, 0.90)
MIDLINE_HALF_MM = 5
LOSS_FROM, MODERATE_FROM, SEVERE_FROM = 0.20, 0.25, 0.40
SLICE_ERROR = 0.5  # error of the loss, in slices per posterior height
THICKEST_MEASURABLE_MM = 3.5
EVENLY_REPEATED = 0.8  # share of slices that a coarse mask repeats equally often
# Posterior height by the root of depth times width: 0.57 to 0.95 in 86 simulated L1 (0.48 and 0.50 in two crushed
# ones), 0.59 to 0.75 in six real vertebrae. Lower: crushed as a whole, or the header's slice spacing is too small.
LOW_BODY = 0.55
# L1 bodies are 20 to 30 mm high, 30 to 35 mm deep and 40 to 50 mm wide; as measured here six real lumbar ones are 33
# to 38 mm deep and 40 to 54 mm wide, 88 simulated L1 up to 32 mm high, 23 to 35 mm deep, 34 to 47 mm wide.
USUAL_MM = {"high at the back": (0.0, 34.0), "deep": (20.0, 41.0), "wide": (33.0, 58.0)}
# Above 226 ± 44 HU (L1 below the age of 30; Jang 2019) by four SD: no healthy marrow, even with contrast at 100 kVp.
SCLEROTIC_HU = 400.0
# Halves of a healthy body differ by at most 22 HU in 60 simulated L1 of all spacings, and by 19 HU in six real lumbar
# vertebrae; twice that is the starting value.
UNEVEN_HALVES_HU = 40.0
HALVES_APART_MM = 2.0
# Cortical bone has at most 1720 HU at 66 keV (CLINICAL), some 2100 at 80 kVp: what is denser is metal.
METAL_HU = 2500.0
METAL_ML = 0.1
# With its arch, a vertebra's centre lies 7 to 12 mm behind its body's (real and simulated ones); without, within 1 mm.
ARCH_BEHIND_MM = 4.0


@dataclass(frozen=True)
class BodyHeights:
    """Heights of the vertebral body in mm, its depth and width, and the slice thickness that the mask really has."""

    anterior_mm: float
    middle_mm: float
    posterior_mm: float
    depth_mm: float
    slice_mm: float
    width_mm: float

    @property
    def loss(self) -> float:
        """Height loss as Genant defines it; negative where the body is highest in front."""
        return 1.0 - min(self.anterior_mm, self.middle_mm) / self.posterior_mm

    @property
    def loss_error(self) -> float:
        """One SD of the loss (see the module)."""
        return SLICE_ERROR * self.slice_mm / self.posterior_mm


def check_vertebra(case: L1Case, core: Attenuation, known: Iterable[QualityNote] = ()) -> list[QualityNote]:
    """Notes on fracture, sclerosis and focal lesions; raises InputRefused for metal or cement in the body, and
    for an arch in front of it.

    core: what `attenuation.measure` gave. known: its notes; what they say is not said again.
    """
    body = upright_body(case.mask_zyx, case.ct.geometry)
    refuse_arch_in_front(body, case.vertebra)
    voxels_zyx = trabecular_voxels(body, case.ct.geometry)
    values = case.ct.array_zyx[voxels_zyx].astype(np.float64)
    refuse_metal(values, case.vertebra)
    heights = body_heights(body, case)
    notes = [*_metal_notes(case), *_height_notes(heights, case.vertebra), *_size_notes(heights, case.vertebra)]
    if core.mean_hu > SCLEROTIC_HU:
        notes.append(
            QualityNote(
                "sclerosis",
                Severity.WARNING,
                f"{case.vertebra}'s core has {core.mean_hu:.0f} HU, more than healthy marrow ever has: sclerosis, from "
                "a fracture, a metastasis or surgery? HU do not tell density here.",
            )
        )
    if not {"heterogeneous_core", "focus_in_core"} & {note.code for note in known}:
        notes += _halves_notes(values, _own_coordinates(body, voxels_zyx, case.ct.geometry), case.vertebra)
    return notes


def refuse_arch_in_front(body: UprightBody, vertebra: str) -> None:
    """Raises InputRefused ("orientation_impossible") if the arch lies in front of the body: no patient has that."""
    behind = float((np.argwhere(body.mask_zyx >= 0.5).mean(axis=0)[::-1] - body.middle_xyz)[1])
    if behind < -ARCH_BEHIND_MM:
        raise InputRefused(
            "orientation_impossible",
            f"{vertebra}'s arch lies in front of its body, which is impossible: the image's orientation is wrong "
            "(turned, mirrored or upside down).",
            ORIENTATION_REMEDY,
        )


def body_heights(body: UprightBody, case: L1Case) -> BodyHeights:
    """Anterior, middle and posterior height of the body near its midline, to a fraction of a voxel."""
    x, _, z = (round(float(v)) for v in body.middle_xyz)
    near = slice(x - MIDLINE_HALF_MM, x + MIDLINE_HALF_MM + 1)
    in_middle = body.body_zyx[z - 4 : z + 5, :, near].any(axis=0).mean(axis=1) > 0.5
    rows = np.flatnonzero(in_middle)
    front, depth = int(rows[0]), int(rows[-1] - rows[0]) + 1
    along = np.array([_column_height(body.mask_zyx[:, y, near], z) for y in range(front, front + depth)])

    columns = np.flatnonzero(body.body_zyx.any(axis=(0, 1)))
    width = float(columns[-1] - columns[0]) + 1

    def mean_within(share: tuple[float, float]) -> float:
        return float(along[round(share[0] * depth) : round(share[1] * depth)].mean())

    return BodyHeights(
        mean_within(ANTERIOR), mean_within(MIDDLE), mean_within(POSTERIOR), float(depth), mask_slice_mm(case), width
    )


def _column_height(columns_zx: NDArray[np.float32], middle: int) -> float:
    """Median distance between the half-filled points above and below `middle`, over the columns filled there."""
    filled = columns_zx[:, columns_zx[middle] >= 0.5]
    if filled.shape[1] == 0:
        return 0.0
    heights = _reach(filled[middle:]) + _reach(filled[middle::-1])
    return float(np.median(heights))


def _reach(columns_zx: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far each column is filled from its first voxel on, interpolated to where it is half full."""
    empty = np.vstack([columns_zx < 0.5, np.ones((1, columns_zx.shape[1]), bool)])
    stop = np.minimum(empty.argmax(axis=0), len(columns_zx) - 1)
    column = np.arange(columns_zx.shape[1])
    last, first_empty = columns_zx[stop - 1, column], columns_zx[stop, column]
    return np.asarray(stop - 1 + (last - 0.5) / np.maximum(last - first_empty, 1e-6), np.float64)


def mask_slice_mm(case: L1Case) -> float:
    """Slice thickness of the mask along the body, mm: that of the CT, or more where a coarse mask was refined.

    A mask from 3 mm voxels on 1 mm slices repeats every slice three times, and is no better than 3 mm.
    """
    mask, geometry = canonical(case.mask_zyx.astype(np.uint8), case.ct.geometry)
    held = np.flatnonzero(mask.any(axis=(1, 2)))
    mask = mask[held[0] : held[-1] + 1]
    changes = np.flatnonzero((mask[1:] != mask[:-1]).any(axis=(1, 2)))
    repeats = np.diff(changes)
    if len(repeats) == 0 or np.mean(repeats <= repeats.min() + 1) < EVENLY_REPEATED:
        return geometry.spacing_mm_xyz[2]
    return geometry.spacing_mm_xyz[2] * float(np.median(repeats))


def trabecular_voxels(body: UprightBody, geometry: ImageGeometry) -> BoolArray:
    """The voxels of the CT's grid in the whole body, 3 mm below its surface; shape of that grid."""
    inside = body.body_zyx & (body.depth_mm_zyx >= EROSION_MM)
    own_grid = to_image(np.zeros(geometry.shape_zyx, np.uint8), geometry)
    image = to_image(inside.astype(np.uint8), body.geometry)
    own = sitk.Resample(image, own_grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return np.asarray(sitk.GetArrayFromImage(own).astype(bool))


def _own_coordinates(body: UprightBody, voxels_zyx: BoolArray, geometry: ImageGeometry) -> NDArray[np.float64]:
    """Millimetres to the left, back and top of the body's middle, shape (voxels, 3)."""
    points = geometry.index_to_lps(np.argwhere(voxels_zyx)[:, ::-1])
    return np.asarray(body.geometry.lps_to_index(points) - body.middle_xyz, np.float64)


def _height_notes(heights: BodyHeights, vertebra: str) -> list[QualityNote]:
    if heights.slice_mm > THICKEST_MEASURABLE_MM:
        text = (
            f"Height loss of {vertebra} was not measured: slices of {heights.slice_mm:.1f} mm are too thick for it. "
            "Look for a fracture in the sagittal view."
        )
        return [QualityNote("height_not_measured", Severity.INFO, text)]
    told = f"front {heights.anterior_mm:.0f}, middle {heights.middle_mm:.0f}, back {heights.posterior_mm:.0f} mm high"
    if heights.loss >= LOSS_FROM + heights.loss_error:
        grade = "severe" if heights.loss > SEVERE_FROM else "moderate" if heights.loss >= MODERATE_FROM else "mild"
        text = (
            f"{vertebra} has lost {heights.loss:.0%} of its height ({told}): {grade} by Genant's grades. HU are "
            "unreliable here; the fracture itself may indicate osteoporosis."
        )
        return [QualityNote("height_loss", Severity.WARNING, text)]
    if heights.posterior_mm < LOW_BODY * np.sqrt(heights.depth_mm * heights.width_mm):
        text = (
            f"{vertebra}'s body is only {heights.posterior_mm:.0f} mm high at the back for a depth of "
            f"{heights.depth_mm:.0f} and a width of {heights.width_mm:.0f} mm: crushed as a whole? Then HU are "
            "unreliable, and the fracture itself may indicate osteoporosis. A wrong slice spacing in the header looks "
            "the same: are its neighbours as flat?"
        )
        return [QualityNote("low_body", Severity.WARNING, text)]
    if heights.loss >= LOSS_FROM:
        text = (
            f"{vertebra} is {told}: a height loss of {heights.loss:.0%} ± {heights.loss_error:.0%}, at the limit of "
            f"{LOSS_FROM:.0%} from which it counts as a fracture. Look at the sagittal view."
        )
        return [QualityNote("height_loss_borderline", Severity.INFO, text)]
    return []


def _size_notes(heights: BodyHeights, vertebra: str) -> list[QualityNote]:
    """A warning if the body is larger or smaller than adults' by more than the error of thick slices."""
    sizes = dict(zip(USUAL_MM, (heights.posterior_mm, heights.depth_mm, heights.width_mm), strict=True))
    slack = {"high at the back": heights.slice_mm / 2}
    outside = {
        way: mm for way, mm in sizes.items() if not USUAL_MM[way][0] <= mm <= USUAL_MM[way][1] + slack.get(way, 0.0)
    }
    if not outside:
        return []
    told = " and ".join(f"{mm:.0f} mm {way}" for way, mm in outside.items())
    spacing = "slice spacing" if list(outside) == ["high at the back"] else "pixel spacing"
    text = (
        f"{vertebra}'s body is {told}, unusual for an adult: check the {spacing} in the header. A wrong one changes "
        "what the network sees."
    )
    return [QualityNote("size_unusual", Severity.WARNING, text)]


def _halves_notes(values_hu: NDArray[np.float64], own_mm: NDArray[np.float64], vertebra: str) -> list[QualityNote]:
    """A note if the left and right, or upper and lower, halves of the body differ more than they do in healthy bone."""
    notes = []
    for axis, one, other in ((0, "left", "right"), (2, "upper", "lower")):
        first, second = values_hu[own_mm[:, axis] > HALVES_APART_MM], values_hu[own_mm[:, axis] < -HALVES_APART_MM]
        if not len(first) or not len(second):
            continue
        difference = float(first.mean() - second.mean())
        if abs(difference) > UNEVEN_HALVES_HU:
            denser, lighter = (one, other) if difference > 0 else (other, one)
            notes.append(
                QualityNote(
                    "uneven_halves",
                    Severity.WARNING,
                    f"The {denser} half of {vertebra}'s body is {abs(difference):.0f} HU denser than the {lighter} "
                    "one: a focal lesion, haemangioma, fracture line or scoliosis? The figure may not be the bone's.",
                )
            )
    return notes


def _metal_notes(case: L1Case) -> list[QualityNote]:
    """Metal in the vertebra outside the body's core: screws in the pedicles shade and brighten what lies between."""
    metal = np.count_nonzero(case.ct.array_zyx[case.mask_zyx] > METAL_HU) * case.ct.geometry.voxel_volume_ml
    if metal < METAL_ML:
        return []
    told = f"{metal:.1f} ml of {case.vertebra} is metal (above {METAL_HU:.0f} HU)"
    text = f"{told}: its streaks can falsify the HU beside it."
    return [QualityNote("metal_in_vertebra", Severity.WARNING, text)]
