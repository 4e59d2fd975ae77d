"""The nouns of the product: volumes, masks, measurements, results, and the errors a person sees.

Conventions, everywhere in `medconv`:
- arrays are `_zyx` (numpy order: slice, row, column); tuples that name voxels or spacing are `_xyz`;
- world coordinates are LPS millimetres, as in DICOM and SimpleITK; only MRML code speaks RAS;
- intensities are Hounsfield units (HU).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.errors import Cancelled as Cancelled
from medconv.errors import InputRefused as InputRefused
from medconv.errors import MedConvError as MedConvError
from medconv.errors import MissingRequirement as MissingRequirement
from medconv.errors import UsageError as UsageError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.floating[Any]]
Vector3 = tuple[float, float, float]
Index3 = tuple[int, int, int]

IDENTITY_DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class TScoreClass(StrEnum):
    """The three WHO classes (WHO Technical Report Series 843, 1994), in order of falling density."""

    NORMAL = "normal"
    OSTEOPENIA = "osteopenia"
    OSTEOPOROSIS = "osteoporosis"


class Severity(StrEnum):
    """How strongly a quality note limits the answer."""

    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True)
class QualityNote:
    """One sentence on how far to trust the answer; `code` is stable for programs, `message` is for people."""

    code: str
    severity: Severity
    message: str


@dataclass(frozen=True)
class ImageGeometry:
    """A voxel grid in LPS millimetres.

    `direction` is row-major 3x3; its columns are the unit vectors of the x, y and z voxel axes (SimpleITK's order).
    `origin_lps_mm` is the centre of voxel (0, 0, 0).
    """

    size_xyz: Index3
    spacing_mm_xyz: Vector3
    origin_lps_mm: Vector3
    direction: tuple[float, ...] = IDENTITY_DIRECTION

    @property
    def voxel_volume_ml(self) -> float:
        return float(np.prod(self.spacing_mm_xyz)) / 1000.0

    @property
    def shape_zyx(self) -> Index3:
        x, y, z = self.size_xyz
        return z, y, x

    def matrix(self) -> FloatArray:
        """Index (i, j, k, 1) → LPS millimetres, shape (4, 4)."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing_mm_xyz)
        matrix[:3, 3] = self.origin_lps_mm
        return matrix

    def index_to_lps(self, index_xyz: Any) -> FloatArray:
        """Continuous voxel indices, shape (..., 3), to LPS millimetres of the same shape."""
        matrix = self.matrix()
        return np.asarray(index_xyz, float) @ matrix[:3, :3].T + matrix[:3, 3]

    def lps_to_index(self, point_lps_mm: Any) -> FloatArray:
        """LPS millimetres, shape (..., 3), to continuous voxel indices of the same shape."""
        inverse = np.linalg.inv(self.matrix())
        return np.asarray(point_lps_mm, float) @ inverse[:3, :3].T + inverse[:3, 3]

    def cut(self, start_xyz: Index3, size_xyz: Index3) -> ImageGeometry:
        """The grid of a block of this grid, voxel for voxel."""
        x, y, z = self.index_to_lps(start_xyz)
        return replace(self, size_xyz=size_xyz, origin_lps_mm=(float(x), float(y), float(z)))

    def same_grid_as(self, other: ImageGeometry, tolerance_mm: float = 1e-2) -> bool:
        """True if every corner voxel of both grids lies within `tolerance_mm`."""
        if self.size_xyz != other.size_xyz:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.size_xyz])).reshape(3, -1).T
        distance = np.linalg.norm(self.index_to_lps(corners) - other.index_to_lps(corners), axis=1)
        return bool(distance.max() <= tolerance_mm)


@dataclass(frozen=True)
class Acquisition:
    """What the file says about how the image was made; None where it says nothing. Never holds an identity."""

    modality: str | None = None
    kvp: float | None = None
    slice_thickness_mm: float | None = None
    kernel: str | None = None
    contrast_agent: str | None = None
    patient_age_years: int | None = None
    patient_sex: str | None = None
    image_type: tuple[str, ...] = ()


@dataclass(frozen=True)
class WholeCT:
    """The CT that a slab was read from: its grid, and an even sample of all its voxels (`grid.even_sample`)."""

    geometry: ImageGeometry
    sample_zyx: NDArray[Any] = field(repr=False, compare=False)


@dataclass(frozen=True)
class CTVolume:
    """A CT as stored: `array_zyx` in HU on `geometry`. `keep_alive` holds whatever owns the array's memory.

    slab_of: None if it is the whole CT; else what is known of the CT that it is a slab of, voxel for voxel.
    """

    array_zyx: NDArray[Any]
    geometry: ImageGeometry
    acquisition: Acquisition = Acquisition()
    source: str = ""
    is_simulated: bool = False
    keep_alive: object = field(default=None, repr=False, compare=False)
    slab_of: WholeCT | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if tuple(self.array_zyx.shape) != self.geometry.shape_zyx:
            raise ValueError(f"array {self.array_zyx.shape} does not fit grid {self.geometry.shape_zyx} (z, y, x)")

    @property
    def whole_geometry(self) -> ImageGeometry:
        """The grid of the whole CT, on which masks lie."""
        return self.slab_of.geometry if self.slab_of else self.geometry


@dataclass(frozen=True)
class L1Mask:
    """L1 on the CT's grid, kept as the block that holds it: `block_zyx[0, 0, 0]` is CT voxel `start_xyz`.

    Where a person chose T12 or L2 instead, it is that vertebra; `LevelChoice.used_as` says which.
    """

    block_zyx: BoolArray
    start_xyz: Index3
    ct_geometry: ImageGeometry
    source: str = ""

    @property
    def geometry(self) -> ImageGeometry:
        """The block's own grid."""
        z, y, x = self.block_zyx.shape
        return self.ct_geometry.cut(self.start_xyz, (x, y, z))

    def full_array_zyx(self) -> NDArray[np.uint8]:
        """0/1 on the whole CT grid."""
        full = np.zeros(self.ct_geometry.shape_zyx, np.uint8)
        x, y, z = self.start_xyz
        depth, height, width = self.block_zyx.shape
        full[z : z + depth, y : y + height, x : x + width] = self.block_zyx
        return full


@dataclass(frozen=True)
class SpineSegmentation:
    """What a segmenter found, on the CT's own grid: the block of labels that holds it all, and the labels' names.

    `labels_zyx[0, 0, 0]` is CT voxel `start_xyz`; 0 is background. `names` gives each label's structure in the names
    of `vertebrae` ("L1", "T12", "sacrum", "rib_left_12", "liver"). `identity` names the segmenter and its weights for
    the report; `notes` is what the run has to say (GPU memory, a step down to the CPU, a demonstration network).
    """

    labels_zyx: NDArray[np.uint8]
    start_xyz: Index3
    ct_geometry: ImageGeometry
    names: Mapping[int, str]
    segmenter: str
    identity: str = ""
    is_demonstration: bool = False
    notes: tuple[QualityNote, ...] = ()
    timing_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def geometry(self) -> ImageGeometry:
        """The block's own grid."""
        z, y, x = self.labels_zyx.shape
        return self.ct_geometry.cut(self.start_xyz, (x, y, z))

    def label_of(self, name: str) -> int | None:
        """The label of a structure, or None if the segmenter does not know it."""
        return next((label for label, known in self.names.items() if known == name), None)


@dataclass(frozen=True)
class LevelChoice:
    """Which of the found vertebrae is measured, as what, and who said so.

    `found_as` is the name that the segmenter (or the segment, or the mask's label) gives it; `used_as` what it is
    taken for: "L1", also after a relabel by a person, or "T12" or "L2" where one of these was chosen instead of L1.
    `decided_by`: "segmenter", "segment" (its name or terminology), "label" (the number a person gave) or "person"
    (who confirmed or corrected it). `doubts`: what the level check found, whether or not it was confirmed since.
    """

    found_as: str
    used_as: str
    decided_by: str
    segmenter: str
    doubts: tuple[QualityNote, ...] = ()


@dataclass(frozen=True)
class L1Case:
    """All that the analysis needs of a case: CT and mask cut to L1's neighbourhood, and the notes so far.

    Small (some ten megabytes), so that it can be handed to another process. `mask_zyx` has `ct.array_zyx`'s shape.
    """

    ct: CTVolume
    mask_zyx: BoolArray
    center_lps_mm: Vector3
    volume_ml: float
    touches_border: bool
    quality: tuple[QualityNote, ...] = ()
    level: LevelChoice | None = None

    @property
    def vertebra(self) -> str:
        """Which vertebra is measured: "L1", or the one that a person chose instead."""
        return self.level.used_as if self.level else "L1"


@dataclass(frozen=True)
class Attenuation:
    """Trabecular attenuation of L1 inside the region of interest; `volume_ml` is the region's own volume."""

    mean_hu: float
    median_hu: float
    sd_hu: float
    voxels: int
    volume_ml: float


@dataclass(frozen=True)
class Adjustment:
    """Which post-hoc logit adjustment was used, and with which tau (see `tau_adjustment`)."""

    method: str
    tau1: float
    tau2: float


@dataclass(frozen=True)
class ModelIdentity:
    """Which weights answered."""

    name: str
    sha256: str
    trained_on: str


@dataclass(frozen=True)
class Prediction:
    """The answer for one case. `logits` are the network's own, unadjusted; classes are keyed by name.

    prediction_set: the classes that remain possible (`medconv.prediction_set`); empty if the weights bring no
    threshold for it. runtime: how the network ran on the device (`medconv.runtimes`).
    """

    t_score_class: TScoreClass
    probabilities: Mapping[TScoreClass, float]
    logits: Mapping[TScoreClass, float]
    adjustment: Adjustment
    attenuation: Attenuation
    case: L1Case
    quality: tuple[QualityNote, ...]
    model: ModelIdentity
    device: str
    timing_s: Mapping[str, float]
    prediction_set: tuple[TScoreClass, ...] = ()
    runtime: str = "eager"
