"""TotalSegmentator's own package and networks on the lumbar part of a CT, see docs/decisions/0004.

"fast" is one pass of the 3 mm network over the lumbar region. "full" adds one of the 1.5 mm vertebra network around L1
and its neighbours. Wasserthal et al., Radiology: Artificial Intelligence 2023, doi 10.1148/ryai.230024.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.devices import choose_device
from medconv.grid import index3, to_image
from medconv.segmenter import TOTALSEGMENTATOR, Progress, SegmenterRequest
from medconv.segmenters import structures_kept, weights_store
from medconv.segmenters import totalsegmentator_package as package
from medconv.segmenters.nnunet_folder import read_model_folder
from medconv.segmenters.nnunet_loading import WarmModels, sha256_of
from medconv.segmenters.nnunet_runtime import reporting_progress
from medconv.segmenters.region import locate_lumbar_region, misses_l1
from medconv.segmenters.resampling import canonical_block, labels_to_ct, nifti_image
from medconv.segmenters.strays import without_strays
from medconv.segmenters.two_passes import Combined, combine, largest_piece, overlay
from medconv.types import CTVolume, ImageGeometry, Index3, InputRefused, QualityNote, Severity, SpineSegmentation
from medconv.vertebrae import is_vertebra, plain_name

COARSE_MM, FINE_MM = 3.0, 1.5
REFINED = ("T12", "L1", "L2")  # L1, and those that can be measured instead or turn out to be L1
MARGIN_MM = 20.0  # around them, as the package cuts for its own 1.5 mm passes (python_api.totalsegmentator)
LEAST_VERTEBRAE_ML = 5.0  # less is no vertebra: a network leaves specks where there is none
IMPORT_DONE, COARSE_DONE, FINE_DONE = 0.1, 0.6, 0.9
FIRST_SHARE = 0.8  # of the 3 mm pass: the rest is for the whole CT, which is rarely needed
STAND_IN_KEY = "medconv_stand_in"  # in dataset.json of the demonstration networks in TotalSegmentator's format


class TotalSegmentatorSegmenter:
    """Finds vertebrae, sacrum, ribs 11 and 12 and the liver; networks stay loaded for the next case."""

    def __init__(self, request: SegmenterRequest) -> None:
        """Raises UsageError, MissingRequirement (device, weights): before any CT is touched."""
        self._request = request
        self._weights = weights_store.require(request.quality, request.weights_folder)
        self._device = choose_device(request.device)
        self._warm: WarmModels = {}
        self._home = tempfile.TemporaryDirectory(prefix="medconv-totalsegmentator-")

    def segment(self, ct: CTVolume, progress: Progress) -> SpineSegmentation:
        """See `medconv.segmenter.Segmenter`."""
        weights_store.require(self._request.quality, self._request.weights_folder)
        notes: list[QualityNote] = []
        clock = _Clock()
        progress("Loading TotalSegmentator", 0.0)
        with package.quiet_package(Path(self._home.name), self._weights, notes, self._warm):
            names = structures_kept({label: plain_name(name) for label, name in package.class_names().items()})
            clock.lap("loading")
            coarse = self._coarse(ct, names, progress)
            clock.lap("3 mm pass")
            fine = None
            if self._request.quality == "full":
                fine = self._fine(ct, coarse, names, progress, notes)
                clock.lap("1.5 mm pass")
        labels, start = labels_to_ct(coarse.labels_zyx, coarse.geometry, ct.geometry, names)
        if fine is not None:
            labels, start = overlay(labels, start, *labels_to_ct(fine.labels_zyx, fine.geometry, ct.geometry, names))
        clock.lap("onto the CT")
        progress("Finding vertebrae", 1.0)
        return SpineSegmentation(
            labels, start, ct.geometry, names, TOTALSEGMENTATOR,
            identity=self._identity(), is_demonstration=self._is_stand_in(), notes=tuple(notes),
            timing_s=clock.laps,
        )  # fmt: skip

    def _coarse(self, ct: CTVolume, names: dict[int, str], progress: Progress) -> _Pass:
        """The 3 mm network on the lumbar region; on the whole CT if that may leave out L1 or a part of it."""
        whole: tuple[Index3, Index3] = ((0, 0, 0), ct.geometry.size_xyz)
        region = locate_lumbar_region(ct)
        end = COARSE_DONE if self._request.quality == "full" else FINE_DONE
        first_end = end if region is None else IMPORT_DONE + FIRST_SHARE * (end - IMPORT_DONE)
        found = self._coarse_pass(ct, region or whole, progress, "Finding vertebrae", (IMPORT_DONE, first_end))
        l1 = next(label for label, name in names.items() if name == "L1")
        l1_mask, start = labels_to_ct(found.labels_zyx, found.geometry, ct.geometry, {l1: "L1"})
        if misses_l1(l1_mask == l1, start, region, ct.geometry):
            found = self._coarse_pass(ct, whole, progress, "Finding vertebrae in the whole CT", (first_end, end))
        found = _Pass(without_strays(found.labels_zyx, found.geometry, names), found.geometry)
        voxels = int(np.isin(found.labels_zyx, _vertebrae(names)).sum())
        if voxels * found.geometry.voxel_volume_ml < LEAST_VERTEBRAE_ML:
            raise InputRefused(
                "nothing_found",
                "TotalSegmentator found no vertebra in this CT.",
                "Check that it shows the lumbar spine, in Hounsfield units, or choose another segmenter or your own "
                "mask.",
            )
        return found

    def _coarse_pass(
        self, ct: CTVolume, part: tuple[Index3, Index3], progress: Progress, stage: str, fractions: tuple[float, float]
    ) -> _Pass:
        block = canonical_block(ct, *part, COARSE_MM)
        with reporting_progress(progress, stage, *fractions):
            return _Pass(package.predict_total_3mm(nifti_image(block), self._device), block.geometry)

    def _fine(
        self, ct: CTVolume, coarse: _Pass, names: dict[int, str], progress: Progress, notes: list[QualityNote]
    ) -> _Pass | None:
        """L1 and its neighbours from the 1.5 mm network, or None; notes if it means another vertebra by L1."""
        number = {name: label for label, name in names.items()}
        found = [number[name] for name in REFINED if (coarse.labels_zyx == number[name]).any()]
        if not found:
            return None
        block = canonical_block(ct, *_part_around(coarse, found, ct.geometry, self._fine_patch_mm()), FINE_MM)
        with reporting_progress(progress, "Outlining L1", COARSE_DONE, FINE_DONE):
            fine = package.predict_vertebrae(nifti_image(block), self._device)
        combined = combine(coarse.on(block.geometry), fine, _vertebrae(names), found, number["L1"])
        if not combined.l1_agreed:
            notes.append(_disagreement(combined))
        return _Pass(combined.labels_zyx, block.geometry) if combined.refined else None

    def _fine_patch_mm(self) -> NDArray[np.float64]:
        """What the 1.5 mm network sees at once (x, y, z): given less, it would only be filled up with nothing."""
        folder = read_model_folder(weights_store.VERTEBRAE_1_5MM.model_folder(self._weights))
        size = np.array(folder.plans["configurations"]["3d_fullres"]["patch_size"], float)
        z, y, x = size[list(folder.plans.get("transpose_backward", (0, 1, 2)))]
        return np.array([x, y, z]) * folder.spacing_mm_xyz

    def _identity(self) -> str:
        networks = [
            f"{dataset.folder} {_sha256(dataset.model_folder(self._weights) / weights_store.CHECKPOINT)[:12]}"
            for dataset in weights_store.NEEDED[self._request.quality]
        ]
        return f"TotalSegmentator {package.package_version()} total {self._request.quality}: {', '.join(networks)}"

    def _is_stand_in(self) -> bool:
        files = [d.model_folder(self._weights) / "dataset.json" for d in weights_store.NEEDED[self._request.quality]]
        return any(STAND_IN_KEY in json.loads(path.read_text("utf-8")) for path in files)


@dataclass(frozen=True)
class _Pass:
    """Labels (z, y, x) of one pass on its own grid."""

    labels_zyx: NDArray[np.uint8]
    geometry: ImageGeometry

    def on(self, geometry: ImageGeometry) -> NDArray[np.uint8]:
        """The labels on another grid, each voxel as its nearest."""
        reference = sitk.Image(geometry.size_xyz, sitk.sitkUInt8)
        reference.SetSpacing(geometry.spacing_mm_xyz)
        reference.SetOrigin(geometry.origin_lps_mm)
        reference.SetDirection(geometry.direction)
        image = to_image(self.labels_zyx, self.geometry)
        nearest = sitk.Resample(image, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        return np.asarray(sitk.GetArrayFromImage(nearest))


class _Clock:
    """Seconds from one lap to the next."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._since = now - self._since, now


def _vertebrae(names: Mapping[int, str]) -> list[int]:
    return [label for label, name in names.items() if is_vertebra(name)]


def _part_around(
    coarse: _Pass, labels: Iterable[int], ct_geometry: ImageGeometry, least_mm: NDArray[np.float64]
) -> tuple[Index3, Index3]:
    """Start and size (xyz) of the part of the CT that holds these vertebrae and `MARGIN_MM`, at least `least_mm` wide.

    Of each only the largest piece counts: a speck elsewhere would make the part many times as large.
    """
    hits = np.zeros(coarse.labels_zyx.shape, bool)
    for label in labels:
        hits |= largest_piece(coarse.labels_zyx == label)
    places = np.argwhere(hits)[:, ::-1]
    spacing = np.array(coarse.geometry.spacing_mm_xyz)
    first, last = places.min(axis=0), places.max(axis=0)
    margin = np.maximum(MARGIN_MM, (least_mm - (last - first + 1) * spacing) / 2) / spacing
    corners = np.array(np.meshgrid(*zip(first - margin, last + margin, strict=True))).reshape(3, -1).T
    index = ct_geometry.lps_to_index(coarse.geometry.index_to_lps(corners))
    start = np.clip(np.floor(index.min(axis=0)), 0, ct_geometry.size_xyz).astype(int)
    stop = np.clip(np.ceil(index.max(axis=0)) + 1, 0, ct_geometry.size_xyz).astype(int)
    return index3(start), index3(stop - start)


def _disagreement(combined: Combined) -> QualityNote:
    overlap = "" if combined.l1_dice is None else f" (their overlap: Dice {combined.l1_dice:.2f})"
    return QualityNote(
        "level_passes_disagree",
        Severity.WARNING,
        f"TotalSegmentator's 3 mm and 1.5 mm networks do not mean the same vertebra by L1{overlap}.",
    )


def _sha256(path: Path) -> str:
    state = path.stat()
    return _sha256_of_state(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _sha256_of_state(path: Path, _size: int, _modified_ns: int) -> str:
    return sha256_of([path])
