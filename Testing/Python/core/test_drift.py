"""Whether a batch looks like training: the figures against scipy, few false alarms, real shifts found, clear words."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from medconv.batch import drift, drift_statistics
from medconv.batch.drift import Batch, Verdict
from medconv.population import NOT_TOLD, Population, Spread, describe, told
from medconv.types import FloatArray, TScoreClass

ALPHA = 0.01
KVP = {"120": 0.78, "100": 0.13, "140": 0.05, "80": 0.04}
THICKNESS = {"1": 0.3, "3": 0.5, "5": 0.2}
CONTRAST = {"named": 0.4, "not named": 0.6}


def counts(rng: np.random.Generator, shares: Mapping[str, float], n: int) -> dict[str, int]:
    return dict(zip(shares, rng.multinomial(n, list(shares.values())).tolist(), strict=True))


def patients(rng: np.random.Generator, n: int, hu_shift: float = 0.0) -> tuple[dict[str, FloatArray], FloatArray]:
    """Quantities and probabilities (n, 3) that hang together as a patient's do."""
    hu = rng.normal(162.0, 43.0, n) + hu_shift
    logits = np.stack([hu / 30, np.full(n, 5.0), 8 - hu / 40], axis=1) + rng.normal(0, 0.7, (n, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    values = {"hu_mean": hu, "hu_sd": rng.lognormal(3.4, 0.3, n), "l1_volume_ml": rng.normal(45.0, 6.0, n)}
    return values, probabilities


def trained_on(rng: np.random.Generator, n: int = 1000) -> Population:
    values, probabilities = patients(rng, n)
    made = (KVP, THICKNESS, CONTRAST)
    known = {name: Spread.of(column) for name, column in values.items()}
    return Population(
        classes={"normal": n},
        quantities={name: spread for name, spread in known.items() if spread is not None},
        acquisition={
            name: counts(rng, shares, n)
            for name, shares in zip(("kvp", "slice_thickness_mm", "contrast_agent"), made, strict=True)
        },
    ).with_answers(probabilities)


def batch(rng: np.random.Generator, n: int, hu_shift: float = 0.0, kvp: Mapping[str, float] = KVP) -> Batch:
    values, probabilities = patients(rng, n, hu_shift)
    predicted = np.bincount(probabilities.argmax(axis=1), minlength=3).tolist()
    return Batch(
        values | {f"p_{c}": probabilities[:, i] for i, c in enumerate(TScoreClass)},
        {
            "kvp": counts(rng, kvp, n),
            "slice_thickness_mm": counts(rng, THICKNESS, n),
            "contrast_agent": counts(rng, CONTRAST, n),
        },
        dict(zip(map(str, TScoreClass), predicted, strict=True)),
    )


def alarms(batch: Batch, population: Population) -> list[drift.Finding]:
    found = [*drift.unusual(batch, population), *drift.compare(batch, population)]
    return [finding for finding in found if finding.is_alarm]


# Figures


def test_the_distance_is_that_of_scipy_to_the_same_distribution() -> None:
    rng = np.random.default_rng(1)
    spread = Spread.of(rng.normal(160, 40, 1000))
    assert spread is not None
    for values in (rng.normal(150, 50, 137), np.repeat(rng.normal(160, 40, 20), 3)):
        expected = stats.kstest(values, spread.share_below).statistic
        assert drift_statistics.ks_distance(values, spread) == pytest.approx(expected, abs=1e-12)


def test_a_hundred_quantiles_stand_for_the_whole_sample() -> None:
    """Distance to the quantiles against scipy's distance between the two samples themselves."""
    rng = np.random.default_rng(2)
    training, values = rng.normal(160, 40, 1000), rng.normal(145, 40, 200)
    spread = Spread.of(training)
    assert spread is not None
    assert drift_statistics.ks_distance(values, spread) == pytest.approx(
        stats.ks_2samp(values, training).statistic, abs=0.011
    )


@pytest.mark.parametrize("alpha", [0.05, 0.00625])
def test_the_limit_of_the_distance_is_smirnovs(alpha: float) -> None:
    n, m = 200, 1000
    limit = drift_statistics.ks_limit(n, m, alpha)
    assert limit == pytest.approx(stats.kstwobign.isf(alpha) * math.sqrt((n + m) / (n * m)), rel=1e-3)


@pytest.mark.parametrize(("cases", "of"), [(0, 12), (3, 17), (50, 50), (120, 1000)])
def test_shares_have_wilsons_interval(cases: int, of: int) -> None:
    expected = stats.binomtest(cases, of).proportion_ci(0.95, method="wilson")
    assert drift_statistics.wilson(cases, of) == pytest.approx((expected.low, expected.high), abs=1e-7)


def test_a_share_of_nothing_is_anything() -> None:
    assert drift_statistics.wilson(0, 0) == (0.0, 1.0)


def test_counts_are_compared_by_chi_squared() -> None:
    here, there = {"a": 30, "b": 50, "c": 20}, {"a": 480, "b": 320, "c": 200}
    table = [[30, 50, 20], [480, 320, 200]]
    expected = stats.chi2_contingency(table, correction=False).pvalue
    assert drift_statistics.shares_differ(here, there) == pytest.approx(expected)


def test_rare_values_are_counted_together() -> None:
    here, there = {"a": 90, "b": 110, "c": 1}, {"a": 480, "b": 500, "d": 9, "e": 11}
    expected = stats.chi2_contingency([[110, 91], [500, 500]], correction=False).pvalue
    assert drift_statistics.shares_differ(here, there) == pytest.approx(expected)
    assert drift_statistics.shares_differ({"a": 5}, {"a": 100}) == 1.0


def test_the_stability_index_is_the_sum_worked_by_hand() -> None:
    found = drift_statistics.stability_index_of({"a": 60, "b": 40}, {"a": 500, "b": 500})
    assert found == pytest.approx(0.1 * math.log(1.2) - 0.1 * math.log(0.8))
    even = Spread(1000, tuple(np.linspace(0.0, 100.0, 101).tolist()))
    values = np.concatenate([np.full(10, 5.0 + 10 * tenth) for tenth in range(10)])
    assert drift_statistics.stability_index(values, even) == pytest.approx(0.0, abs=1e-9)
    moved = np.where(values < 10, 15.0, values)  # the first tenth into the second: 0 and 0.2 instead of 0.1
    by_hand = (0.005 - 0.1) * math.log(0.005 / 0.1) + (0.2 - 0.1) * math.log(0.2 / 0.1)
    assert drift_statistics.stability_index(moved, even) == pytest.approx(by_hand, rel=1e-6)


def test_the_smallest_shift_that_is_seen_reaches_the_limit() -> None:
    spread = Spread(1000, tuple(np.linspace(100.0, 200.0, 101).tolist()))
    assert drift_statistics.smallest_shift(spread, 0.2) == pytest.approx(20.0, abs=1.0)
    assert drift_statistics.smallest_shift(spread, 1.2) == math.inf


# How often it alarms


@pytest.mark.parametrize(("cases", "repeats"), [(20, 150), (200, 300), (2000, 100)])
def test_a_batch_of_the_training_population_alarms_in_at_most_one_of_twenty(cases: int, repeats: int) -> None:
    """Every repeat draws the training sample anew as well: its own chance counts. (4000 repeats give 3 to 4 %.)"""
    rng = np.random.default_rng(cases)
    alarmed = sum(bool(alarms(batch(rng, cases), trained_on(rng))) for _ in range(repeats))
    assert alarmed <= stats.binom.ppf(0.95, repeats, drift.FALSE_ALARMS)


def test_twenty_hu_are_found_in_two_hundred_cases() -> None:
    rng = np.random.default_rng(7)
    found = [alarms(batch(rng, 200, hu_shift=-20.0), trained_on(rng)) for _ in range(100)]
    told = [any(finding.subject == "hu_mean" for finding in findings) for findings in found]
    assert sum(told) >= 85


def test_a_difference_beyond_chance_but_small_is_called_small() -> None:
    rng = np.random.default_rng(8)
    (finding,) = [f for f in alarms(batch(rng, 50_000, hu_shift=-6.0), trained_on(rng, 5000)) if f.subject == "hu_mean"]
    assert finding.verdict is Verdict.SMALL
    assert "slightly lower than in training" in finding.message


# Words


def test_lower_hu_are_told_with_both_medians_and_what_to_do() -> None:
    rng = np.random.default_rng(9)
    population, found = trained_on(rng), batch(rng, 200, hu_shift=-30.0)
    first = alarms(found, population)[0]
    here, there = np.median(found.quantities["hu_mean"]), population.quantities["hu_mean"].at(0.5)
    assert first.subject == "hu_mean"
    assert first.verdict is Verdict.STRONG
    assert first.message == (
        f"The HU of L1 are much lower than in training: median {here:.0f} HU against {there:.0f} HU, n = 200."
    )
    assert "tube voltage" in first.remedy
    assert "phantom" in first.remedy


def test_equal_medians_with_another_spread_are_not_called_a_shift() -> None:
    rng = np.random.default_rng(10)
    population = trained_on(rng)
    values = population.quantities["hu_mean"].at(0.5) + 3.0 * (patients(rng, 300)[0]["hu_mean"] - 162.0)
    wide = Batch({"hu_mean": values}, {}, {"normal": 300})
    assert "more spread out than in training" in alarms(wide, population)[0].message


def test_what_is_alike_says_how_much_would_not_show() -> None:
    rng = np.random.default_rng(11)
    population = trained_on(rng)
    (hu,) = [f for f in drift.compare(batch(rng, 100), population) if f.subject == "hu_mean"]
    assert hu.verdict is Verdict.ALIKE
    assert f"A shift of less than about {hu.figures['smallest_shift_seen']:.0f} HU would not show" in hu.message


def test_other_voltages_are_told_by_their_shares_and_those_that_training_lacked_by_name() -> None:
    rng = np.random.default_rng(12)
    found = alarms(batch(rng, 200, kvp={"120": 0.2, "100": 0.7, "70": 0.1}), trained_on(rng))
    by_subject = {finding.subject: finding for finding in found}
    outside = by_subject["kvp_outside_training"]
    assert outside.message.startswith("Tube voltages that training did not have: 70 kVp 100% in ")
    assert outside.message.endswith(" of 200 CTs.")
    assert by_subject["kvp"].verdict is Verdict.STRONG
    assert "100 kVp 7" in by_subject["kvp"].message


def test_a_single_odd_ct_is_no_alarm() -> None:
    rng = np.random.default_rng(13)
    population = trained_on(rng)
    found = batch(rng, 300)
    found.acquisition["kvp"]["70"] = 1  # type: ignore[index]
    assert drift.unusual(found, population) == []


def test_files_that_tell_nothing_of_their_making_are_not_compared_by_it() -> None:
    rng = np.random.default_rng(14)
    silent = told(None, None, None)
    assert set(silent.values()) == {NOT_TOLD}
    found = batch(rng, 100)
    quiet = Batch(found.quantities, {name: {value: 100} for name, value in silent.items()}, found.predicted)
    subjects = {finding.subject for finding in drift.compare(quiet, trained_on(rng))}
    assert subjects == {"hu_mean", "hu_sd", "l1_volume_ml", "p_osteoporosis", "classes"}


def test_a_file_that_tells_its_voltage_and_no_agent_counts_as_without() -> None:
    assert told(119.6, 1.249, None) == {"kvp": "120", "slice_thickness_mm": "1.25", "contrast_agent": "not named"}
    assert told(math.nan, math.nan, "Iomeprol")["contrast_agent"] == "named"


def test_few_cases_and_weights_that_do_not_tell_are_not_judged() -> None:
    rng = np.random.default_rng(15)
    (few,) = drift.compare(batch(rng, 9), trained_on(rng))
    assert few.verdict is Verdict.TOO_FEW
    assert "9 answered cases are too few" in few.message
    (unknown,) = drift.compare(batch(rng, 100), None)
    assert "can't be judged" in unknown.message
    assert not unknown.is_alarm


# The population itself


def test_a_population_is_made_of_what_is_known() -> None:
    cases = [{"hu_mean": 100.0 + i, "hu_sd": math.nan, "kvp": "120" if i else "80"} for i in range(101)]
    found = describe({"normal": 70, "osteopenia": 31}, cases, "all")
    assert found.patients == 101
    assert found.quantities["hu_mean"].quantiles == tuple(100.0 + i for i in range(101))
    assert "hu_sd" not in found.quantities
    assert found.acquisition == {
        "kvp": {"80": 1, "120": 100}, "slice_thickness_mm": {NOT_TOLD: 101}, "contrast_agent": {NOT_TOLD: 101},
    }  # fmt: skip


@pytest.mark.parametrize("quantiles", [[1.0], [2.0, 1.0]])
def test_a_damaged_population_is_refused(quantiles: list[float]) -> None:
    entry = {"classes": {}, "quantities": {"hu_mean": {"cases": 5, "quantiles": quantiles}}}
    with pytest.raises(ValueError, match="hu_mean"):
        Population.from_json(entry)
