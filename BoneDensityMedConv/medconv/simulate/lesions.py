"""What a finding does to L1's marrow on the coarse grid: haemangioma, cement, degenerated facets and endplates.

HU: a haemangioma is fat and vessels between thickened vertical trabeculae, the "polka dots" of an axial CT and the
"corduroy" of a sagittal one. Cement is PMMA with about 30 % barium sulphate, 1500 to 3000 HU in published CTs. Sizes
and HU within these ranges are our assumption.
"""

from __future__ import annotations

import math

import numpy as np

from medconv.simulate.findings import Findings
from medconv.simulate.physics import smooth_step
from medconv.simulate.soft_tissue import ellipsoid
from medconv.simulate.spine import LABELS, SOFT_EDGE_MM, BoneField, PlacedVertebra, bounds
from medconv.simulate.vertebra import Array, VertebraShape, rod_distance
from medconv.types import FloatArray

HAEMANGIOMA_STROMA_HU, HAEMANGIOMA_TRABECULA_HU = -45.0, 430.0
TRABECULAE_APART_MM, TRABECULA_SIGMA_MM = 4.3, 1.05
CEMENT_HU = 2300.0
FACET_SCLEROSIS_HU = 550.0  # at full degeneration
SCHMORL_FROM = 0.55  # degeneration from which an endplate has a node
SCHMORL_RADIUS_MM, SCHMORL_RIM_MM, SCHMORL_RIM_HU, DISC_HU = 4.0, 2.2, 330.0, 88.0
FINE_STEP_MM = 1.1  # a haemangioma's trabeculae need a finer grid


def step_mm(usual_mm: float, findings: Findings) -> float:
    """The grid that the findings need."""
    return min(usual_mm, FINE_STEP_MM) if findings.haemangioma_mm else usual_mm


def add_lesions(bone: BoneField, l1: PlacedVertebra, findings: Findings, rng: np.random.Generator) -> None:
    """Change L1's marrow, in place. The same random numbers are drawn whatever the findings are."""
    jitter = rng.uniform(-0.9, 0.9, (2, 15, 15))
    lumps = rng.standard_normal((6, 4))
    node = rng.uniform(-0.45, 0.45, 2)
    upper = rng.random() < 0.6
    part = bone.grid.part(*bounds(l1, SOFT_EDGE_MM))
    x, y, z = l1.own_coordinates(bone.grid, part)
    marrow, own = bone.trabecular_hu[part], bone.owner[part] == LABELS["L1"]
    changed = marrow.copy()
    if findings.degeneration:
        _degenerate(changed, x, y, z, l1.shape, findings.degeneration, (float(node[0]), float(node[1])), upper)
    if findings.haemangioma_mm:
        _haemangioma(changed, x, y, z, l1.shape, findings, jitter)
    if findings.cement_ml:
        step = float(bone.grid.x_mm[1] - bone.grid.x_mm[0])
        _cement(changed, x, y, z, l1.shape, findings.cement_ml, lumps, bone.distance_mm[part], step**3 / 1000.0)
    marrow[own] = changed[own]


def _haemangioma(
    hu: Array, x: Array, y: Array, z: Array, shape: VertebraShape, findings: Findings, jitter: FloatArray
) -> None:
    at = findings.haemangioma_at
    cx, cy, cz = (half * share for half, share in zip(_half(shape), at, strict=True))
    radius = findings.haemangioma_mm / 2.0
    inside = smooth_step(ellipsoid(x - cx, y - cy, z - cz, radius, radius, 1.15 * radius), 1.0)
    dots = np.zeros_like(hu)
    count = jitter.shape[1] // 2
    for i in range(-count, count + 1):
        for k in range(-count, count + 1):
            px = cx + TRABECULAE_APART_MM * (i + 0.5 * (k % 2)) + jitter[0, i, k]
            py = cy + TRABECULAE_APART_MM * math.sqrt(0.75) * k + jitter[1, i, k]
            if math.hypot(px - cx, py - cy) < radius + 1.0:
                near = ((x - px) ** 2 + (y - py) ** 2) / (2.0 * TRABECULA_SIGMA_MM**2)
                dots = np.maximum(dots, np.exp(-near))
    lesion = HAEMANGIOMA_STROMA_HU + (HAEMANGIOMA_TRABECULA_HU - HAEMANGIOMA_STROMA_HU) * dots
    hu += (inside * (lesion - hu)).astype(np.float32)


def _cement(
    hu: Array, x: Array, y: Array, z: Array, shape: VertebraShape, volume_ml: float, lumps: FloatArray,
    distance_mm: Array, voxel_ml: float,
) -> None:  # fmt: skip
    """A lumpy cloud in the front half of the body, of about that volume; none of it leaves the bone."""
    radius = (3000.0 * volume_ml / (4.0 * math.pi)) ** (1.0 / 3.0)
    a, b, c = 1.25 * radius, 0.95 * radius, 0.84 * radius
    cloud = ellipsoid(x, y + 0.15 * shape.depth, z, a, b, c)
    for lump in lumps:
        px, py, pz = 0.7 * a * lump[0], 0.7 * b * lump[1] - 0.15 * shape.depth, 0.7 * c * lump[2]
        size = radius * (0.22 + 0.08 * abs(float(lump[3])))
        cloud = np.minimum(cloud, ellipsoid(x - px, y - py, z - pz, size, size, size))
    cloud = np.maximum(cloud, distance_mm + 1.0)
    # The surface is put where the volume is right: lumps add to it, and the bone's limits take from it.
    places = min(round(volume_ml / voxel_ml), cloud.size - 1)
    cloud = np.maximum(cloud - np.partition(cloud.ravel(), places)[places], distance_mm + 1.0)
    hu += (smooth_step(cloud, 0.7) * (CEMENT_HU - hu)).astype(np.float32)


def _degenerate(
    hu: Array, x: Array, y: Array, z: Array, shape: VertebraShape, degree: float, at: tuple[float, float], upper: bool
) -> None:
    """Dense facets; a Schmorl's node with its rim in one endplate."""
    half = shape.height / 2.0
    pillar, lamina = 0.33 * shape.width, shape.depth / 2.0 + shape.canal_depth
    pillar_y = shape.depth / 2.0 + 0.72 * shape.canal_depth
    side = np.abs(x)
    upper_facet = rod_distance(
        side, y, z, (pillar + 1.0, pillar_y, 0.7 * half), (pillar + 2.5, pillar_y - 1.0, 1.3 * half), (4.5, 4.5, 4.5)
    )
    lower_facet = rod_distance(
        side, y, z, (pillar - 2.5, lamina, -0.9 * half), (pillar - 3.0, lamina, -1.7 * half), (4.5, 4.5, 4.5)
    )
    hu += (degree * FACET_SCLEROSIS_HU * smooth_step(np.minimum(upper_facet, lower_facet), 1.5)).astype(np.float32)
    if degree < SCHMORL_FROM:
        return
    cx, cy, _ = (h * s for h, s in zip(_half(shape), (*at, 0.0), strict=True))
    cz = (half - 1.0) * (1.0 if upper else -1.0)
    ball = np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) - SCHMORL_RADIUS_MM
    rim = np.exp(-(((ball - 0.5 * SCHMORL_RIM_MM) / SCHMORL_RIM_MM) ** 2))
    hu += (SCHMORL_RIM_HU * rim).astype(np.float32)
    hu += (smooth_step(ball, 0.8) * (DISC_HU - hu)).astype(np.float32)


def _half(shape: VertebraShape) -> tuple[float, float, float]:
    return shape.width / 2.0, shape.depth / 2.0, shape.height / 2.0
