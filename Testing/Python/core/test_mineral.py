"""Mineral's attenuation by tube voltage, and the crop that is brought to one voltage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medconv.config import Preprocessing
from medconv.crop import standardised_crop, voltage_notes
from medconv.mineral import hu_per_mg_ha, to_voltage
from medconv.simulate.l1_case import simulate_l1_case
from medconv.types import Acquisition


def test_slopes_are_the_tabulated_ones_and_linear_between() -> None:
    assert hu_per_mg_ha(120.0) == 1.45
    assert hu_per_mg_ha(110.0) == pytest.approx((1.66 + 1.45) / 2)
    with pytest.raises(ValueError, match="must lie in 80"):
        hu_per_mg_ha(150.0)


def test_hu_at_100_kvp_shrink_to_120_and_an_unknown_voltage_changes_nothing() -> None:
    assert to_voltage(100.0, 120.0) == pytest.approx(1.45 / 1.66)
    assert to_voltage(None, 120.0) == 1.0
    assert to_voltage(70.0, 120.0) == to_voltage(80.0, 120.0)


def test_the_crop_is_brought_to_the_reference_voltage() -> None:
    case, _ = simulate_l1_case(3)
    plain = Preprocessing((20, 24, 18), 4.0, (-200.0, 800.0))
    at_100 = replace(case, ct=replace(case.ct, acquisition=Acquisition(modality="CT", kvp=100.0)))
    scaled = replace(case, ct=replace(case.ct, array_zyx=case.ct.array_zyx * np.float32(1.45 / 1.66)))
    np.testing.assert_array_equal(
        standardised_crop(at_100, replace(plain, reference_kvp=120.0)), standardised_crop(scaled, plain)
    )
    np.testing.assert_array_equal(standardised_crop(at_100, plain), standardised_crop(case, plain))


def test_the_reader_is_told_what_voltage_the_network_saw() -> None:
    at_120 = Preprocessing(reference_kvp=120.0)
    assert voltage_notes(Acquisition(kvp=120.0), at_120) == []
    assert voltage_notes(Acquisition(kvp=None), Preprocessing()) == []
    (corrected,) = voltage_notes(Acquisition(kvp=100.0), at_120)
    assert corrected.code == "network_voltage_corrected"
    assert "times 0.87" in corrected.message  # 1.45 / 1.66
    (assumed,) = voltage_notes(Acquisition(kvp=None), at_120)
    assert "14% denser" in assumed.message  # 1.66 / 1.45
