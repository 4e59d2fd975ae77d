"""How many vertebrae and ribs a person has, and the curve of the whole spine.

Six lumbar vertebrae are found in 6.6 % of people (Apazidis 2011), numeric variants in 7.7 % (Tins 2016): a reader that
counts from below, or takes the lowest rib for the twelfth, names L1 wrongly in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

THORACIC = ("T4", "T5", "T6", "T7", "T8", "T9", "T10", "T11", "T12")
LUMBAR = ("L1", "L2", "L3", "L4", "L5", "L6")


@dataclass(frozen=True)
class Variant:
    """What differs from the usual: the number of lumbar vertebrae, and which of the last levels carry ribs."""

    lumbar_count: int = 5
    t12_ribs: bool = True
    l1_ribs: bool = False

    @property
    def levels(self) -> tuple[str, ...]:
        """Vertebrae from above to below, the sacrum not counted."""
        return THORACIC + LUMBAR[: self.lumbar_count]

    @property
    def rib_levels(self) -> tuple[str, ...]:
        ribs = THORACIC if self.t12_ribs else THORACIC[:-1]
        return (*ribs, "L1") if self.l1_ribs else ribs


VARIANTS: Mapping[str, Variant] = {
    "usual": Variant(),
    "four_lumbar": Variant(lumbar_count=4),
    "six_lumbar": Variant(lumbar_count=6),
    "t12_without_ribs": Variant(t12_ribs=False),
    "ribs_on_l1": Variant(l1_ribs=True),
}

# By how much a level's upper side leans forward, lying on one's back: typical angles, our choice.
TILT_DEG: Mapping[str, float] = {
    "T4": 11.0, "T5": 9.0, "T6": 6.0, "T7": 3.0, "T8": 0.0, "T9": -3.0, "T10": -6.0, "T11": -8.0, "T12": -9.0,
    "L1": -8.0, "L2": -5.0, "L3": 0.0, "L4": 8.0, "L5": 20.0, "sacrum": 38.0,
}  # fmt: skip
CURVATURE_SPREAD = 0.18  # SD of the factor on all angles; our assumption


def find_variant(name: str) -> Variant:
    """The variant of that name. Raises ValueError naming the known ones."""
    if name not in VARIANTS:
        raise ValueError(f"unknown variant '{name}', expected one of {sorted(VARIANTS)}")
    return VARIANTS[name]


def draw_curve(rng: np.random.Generator, variant: Variant) -> dict[str, float]:
    """Tilt of every level and of the sacrum, degrees, from above to below; one spine is straighter than another."""
    return curve_of(variant, draw_curvature(rng))


def draw_curvature(rng: np.random.Generator) -> float:
    """The factor on all angles of one person's spine."""
    return float(np.clip(1.0 + CURVATURE_SPREAD * rng.standard_normal(), 0.5, 1.5))


def curve_of(variant: Variant, factor: float) -> dict[str, float]:
    """Tilt of every level and of the sacrum, degrees, of a spine that is curved `factor` times as usual."""
    lumbar = variant.levels[len(THORACIC) :]
    # With one vertebra more or fewer, the same lordosis is shared by those there are.
    places = np.linspace(0.0, 4.0, len(lumbar))
    shared = np.interp(places, range(5), [TILT_DEG[level] for level in LUMBAR[:5]])
    usual = {level: TILT_DEG[level] for level in THORACIC} | dict(zip(lumbar, shared.tolist(), strict=True))
    return {level: factor * tilt for level, tilt in (usual | {"sacrum": TILT_DEG["sacrum"]}).items()}
