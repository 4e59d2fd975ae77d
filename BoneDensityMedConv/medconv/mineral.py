"""How bone mineral attenuates by tube voltage: what the simulator and the network's input share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# HU per mg/cm³ hydroxyapatite, from NIST mass attenuation at effective 53/60/66/73 keV.
HU_PER_MG_HA: Mapping[float, float] = {80.0: 2.06, 100.0: 1.66, 120.0: 1.45, 140.0: 1.25}


def hu_per_mg_ha(kvp: float) -> float:
    """HU per mg/cm³ HA at a tube voltage, linear between the tabulated ones. Raises ValueError outside 80..140."""
    voltages = sorted(HU_PER_MG_HA)
    if not voltages[0] <= kvp <= voltages[-1]:
        raise ValueError(f"kVp must lie in {voltages[0]:g}..{voltages[-1]:g}, got {kvp:g}")
    return float(np.interp(kvp, voltages, [HU_PER_MG_HA[v] for v in voltages]))


def to_voltage(kvp: float | None, reference_kvp: float) -> float:
    """Factor that brings mineral's HU from `kvp` to `reference_kvp`.

    An unknown voltage is taken as the reference's own (factor 1), one outside 80..140 as the nearest of these.
    """
    if kvp is None:
        return 1.0
    low, high = min(HU_PER_MG_HA), max(HU_PER_MG_HA)
    return hu_per_mg_ha(reference_kvp) / hu_per_mg_ha(min(max(kvp, low), high))
