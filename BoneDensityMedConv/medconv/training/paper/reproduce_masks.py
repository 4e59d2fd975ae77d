"""Table III's second segmenter: our reading, since neither is run here. Larger errors on a cohort's own masks.

A mask of the cohort becomes a signed distance, which is moved by an offset, made uneven by smooth noise, and read on a
coarser grid: the same three errors as the simulator's masks (decision 0003), two to four times as large.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from medconv import volume_io
from medconv.training.cohorts.cases import Cohort, LabelledCase
from medconv.types import BoolArray, FloatArray, ImageGeometry, InputRefused

OFFSET_MM = (0.6, 0.9)  # mean and SD by which the boundary lies too far out
WOBBLE_MM, WOBBLE_LENGTH_MM = 1.5, 5.0
GRID_MM = 3.0
ENDING = ".nii.gz"


def with_masks(cohort: Cohort, folder: Path) -> Cohort:
    """The cohort with the masks of another folder, by case id. Raises InputRefused if one is missing."""
    files = {path.name.removesuffix(ENDING): path for path in folder.glob(f"*{ENDING}")} if folder.is_dir() else {}
    missing = [case.case_id for case in cohort.cases if case.case_id not in files]
    if missing:
        raise InputRefused(
            "masks_b_missing",
            f"{folder} lacks the masks of {len(missing)} of {len(cohort.cases)} cases ({', '.join(missing[:5])}).",
            f"Expected one <SubjectID>{ENDING} for each case.",
        )
    return replace(cohort, cases=tuple(replace(case, mask=files[case.case_id]) for case in cohort.cases))


def worse_masks(cohort: Cohort, folder: Path, say: Callable[[str, float | None], None]) -> Cohort:
    """The cohort with worse masks, made in `folder` where they are missing. For simulated cohorts only.

    Raises InputRefused for a hospital's cohort: its second segmenter's masks must come from that segmenter.
    """
    if cohort.model is None or any(case.mask is None for case in cohort.cases):
        raise InputRefused(
            "masks_b_needed",
            "Table III compares two segmenters, and this cohort has the masks of one (or none).",
            "Give the other's masks with --masks-b DIR (one <SubjectID>.nii.gz a case).",
        )
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for place, case in enumerate(cohort.cases):
        path = folder / f"{case.case_id}{ENDING}"
        if not path.exists():
            say(f"Worse masks for Table III ({place + 1} of {len(cohort.cases)})", place / len(cohort.cases))
            _write(case, path)
        cases.append(replace(case, mask=path, label=None))
    return replace(cohort, cases=tuple(cases))


def spoil(mask_zyx: BoolArray, spacing_zyx: tuple[float, float, float], rng: np.random.Generator) -> BoolArray:
    """One worse mask: offset, wobble, stairs; its largest piece, clear of the volume's border."""
    from scipy import ndimage

    inside = ndimage.distance_transform_edt(mask_zyx, sampling=spacing_zyx)
    outside = ndimage.distance_transform_edt(~mask_zyx, sampling=spacing_zyx)
    lengths = [WOBBLE_LENGTH_MM / step for step in spacing_zyx]
    wobble = ndimage.gaussian_filter(rng.standard_normal(mask_zyx.shape), lengths)
    offset = OFFSET_MM[0] + OFFSET_MM[1] * float(rng.standard_normal())
    distance = outside - inside - offset + wobble * (WOBBLE_MM / max(float(wobble.std()), 1e-9))
    found = _on_coarse_grid(distance, spacing_zyx) < 0.0
    border = np.zeros_like(found)
    border[1:-1, 1:-1, 1:-1] = True
    pieces, count = ndimage.label(found & border)
    if count == 0:
        return mask_zyx
    return np.asarray(pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]))


def dice(a: BoolArray, b: BoolArray) -> float:
    """Overlap of two masks."""
    return 2.0 * float(np.sum(a & b)) / max(float(a.sum() + b.sum()), 1.0)


def mean_dice(first: Cohort, second: Cohort, cases: int = 30) -> float:
    """Mean overlap of two cohorts' masks over the first cases."""
    pairs = list(zip(first.cases, second.cases, strict=True))[:cases]
    return float(np.mean([dice(_mask(a)[0], _mask(b)[0]) for a, b in pairs]))


def _on_coarse_grid(field: FloatArray, spacing_zyx: tuple[float, float, float]) -> FloatArray:
    """The field's values at the nearest points of a grid of GRID_MM, where that is coarser: stairs."""
    for axis, step in enumerate(spacing_zyx):
        coarse = np.round(np.arange(field.shape[axis]) * step / GRID_MM) * GRID_MM / step
        places = np.clip(np.rint(coarse), 0, field.shape[axis] - 1).astype(int)
        if step < GRID_MM:
            field = np.take(field, places, axis=axis)
    return field


def _mask(case: LabelledCase) -> tuple[BoolArray, ImageGeometry]:
    assert case.mask is not None
    labels, geometry, _ = volume_io.read_labels(case.mask)
    return np.asarray(labels > 0 if case.label is None else labels == case.label), geometry


def _write(case: LabelledCase, path: Path) -> None:
    mask, geometry = _mask(case)
    x, y, z = geometry.spacing_mm_xyz
    seed = int.from_bytes(hashlib.sha256(case.case_id.encode()).digest()[:8], "little")
    worse = spoil(mask, (z, y, x), np.random.default_rng(seed))
    partial = path.with_name(f"partial_{path.name}")
    volume_io.write_image(partial, worse.astype(np.uint8), geometry)
    partial.replace(path)
