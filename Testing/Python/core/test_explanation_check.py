"""The check of the map on simulated patients: its measuring, with networks that are made by hand instead of trained."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from core.test_explain_command import some
from core.test_explanation import CARD, model

from medconv import crop, explanation
from medconv.config import Preprocessing
from medconv.explanation import PartShare, explain
from medconv.training import explanation_check
from medconv.training.explanation_check import CheckSettings, locate, only
from medconv.vertebra_parts import CORE, PARTS, vertebra_parts

SETTINGS = CheckSettings(preprocessing=Preprocessing(size_xyz=(28, 34, 26), spacing_mm=3.0, reference_kvp=120.0))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(explanation, "PIECE_MM", 24.0)
    monkeypatch.setattr(explanation_check, "PAIRS", 2)


def shares(mass, effects):
    return tuple(PartShare(name, 1.0, 1 / 3, m, e) for name, m, e in zip("abc", mass, effects, strict=True))


def test_a_large_map_counts_more_than_a_small_one():
    """|map| sums to 0.3 and 0.2, a half and all of it in the core: (0.15 + 0.2) / 0.5."""
    one = replace(some(values=(0.2, -0.1)), parts=shares((0.5, 0.5, 0.0), (2.0, -1.0, 0.5)))
    other = replace(some(values=(0.1, 0.1)), parts=shares((1.0, 0.0, 0.0), (-1.0, 0.0, -0.5)), score=-3.0)
    located = locate([one, other], np.array([-1.0, 1.0]))
    assert located.mass_share == pytest.approx((0.7, 0.3, 0.0))
    assert located.volume_share == pytest.approx((1 / 3,) * 3)
    assert located.effect_share == pytest.approx((0.6, 0.2, 0.2))
    assert located.effect_with_signal == pytest.approx((-1.0, 1.0, -1.0))
    # Whole: 0.5 - 0.1, then -3 - 0.1; pieces, in voxels of 1 ml: 0.1, then 0.2.
    assert located.whole_with_pieces == pytest.approx(-1.0)


def test_a_network_that_reads_the_core_alone_has_its_map_in_the_core_of_every_patient():
    """Less dense is towards osteoporosis: the core's effect falls as the patient's density rises."""
    explanations, density = [], []
    for case, truth in islice(explanation_check._fresh_cases(SETTINGS), 4):
        parts = vertebra_parts(case.mask_zyx, case.ct.geometry, crop.crop_geometry(case, SETTINGS.preprocessing))
        weights = -1.0 * (parts.labels_zyx == CORE)
        card = replace(CARD, preprocessing=SETTINGS.preprocessing)
        explanations.append(explain(model(weights, card), case))
        density.append(float(truth["feature_density"]))
    located = locate(explanations, np.array(density))
    assert located.mass_share == pytest.approx((1.0, 0.0, 0.0))
    assert located.effect_share == pytest.approx((1.0, 0.0, 0.0))
    assert located.effect_with_signal[0] < -0.8
    assert 0.1 < located.volume_share[0] < 0.35
    assert located.whole_with_pieces == pytest.approx(1.0)


def test_density_shows_in_all_trabecular_bone_and_the_cortex_not_in_the_core():
    density, cortex = (explanation_check.signal_share(name, SETTINGS) for name in ("density", "cortex"))
    assert sum(density) == pytest.approx(1.0)
    assert density[0] > 0.15
    assert cortex[0] < 0.02
    assert cortex[0] < 0.1 * density[0]


def test_only_one_feature_carries_the_signal_of_a_cohort():
    rng = np.random.default_rng(0)
    drawn = [only("cortex").draw(rng) for _ in range(2000)]
    signal = [patient.signal for patient in drawn]
    assert [patient.features["cortex"] for patient in drawn] == pytest.approx(signal)
    for name in ("density", "texture", "size"):
        assert abs(np.corrcoef(signal, [patient.features[name] for patient in drawn])[0, 1]) < 0.07


def test_the_report_is_told_in_lines():
    figures = {
        "learnt": 0.93, "signal_share": (0.3, 0.4, 0.3), "mass_share": (0.5, 0.3, 0.2),
        "volume_share": (0.25, 0.4, 0.35), "effect_share": (0.6, 0.3, 0.1), "effect_with_signal": (-0.9, -0.8, 0.1),
        "whole_with_pieces": 0.99,
    }  # fmt: skip
    lines = explanation_check.as_text({"parts": list(PARTS.values()), "networks": {"density": figures}}).split("\n")
    assert (
        lines[0] == "Only density carries signal (network's answer and density: r = 0.93; pieces and whole: r = 0.99)"
    )
    assert lines[1] == (
        "  trabecular core                map  50%, volume  25% (x 2.00), density shows  30%, replaced at once  60% "
        "(with density r = -0.90)"
    )
    assert len(lines) == 4
