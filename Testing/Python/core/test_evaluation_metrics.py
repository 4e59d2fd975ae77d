"""Figures and their intervals against scikit-learn, torchmetrics, scipy and counts by hand."""

from __future__ import annotations

import importlib.util
import math
import sys
import warnings
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, norm, permutation_test
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    log_loss,
    recall_score,
    roc_auc_score,
)

from medconv.training.figures import calibration, intervals, metrics


def torchmetrics_classification() -> ModuleType:
    """Its functions. torchmetrics loads torchvision's models wherever any torchvision is installed, and the
    segmenters' stand-in for torchvision has none: nothing is asked of them here."""
    missing = ModuleType("torchvision.models")
    missing.__getattr__ = lambda name: None  # type: ignore[method-assign]
    absent = "torchvision.models" not in sys.modules and importlib.util.find_spec("torchvision.models") is None
    if absent:
        sys.modules["torchvision.models"] = missing
    try:
        return importlib.import_module("torchmetrics.functional.classification")
    finally:
        if absent:
            del sys.modules["torchvision.models"]


other = torchmetrics_classification()
TARGETS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
ANSWERS = np.array([0, 0, 1, 2, 1, 1, 0, 2, 2, 1])


def random_readers(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth, and probabilities with coarse ties that know a little of it."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(3, n, p=(0.5, 0.35, 0.15))
    raw = np.round(rng.random((n, 3)) + 0.6 * np.eye(3)[targets], 1) + 0.05
    return targets, raw / raw.sum(axis=1, keepdims=True)


def repeated(weights: np.ndarray, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The cases of one resample, each as often as it was drawn."""
    index = np.repeat(np.arange(len(weights)), weights.astype(int))
    return tuple(array[index] for array in arrays)


def sklearn_figures(targets: np.ndarray, p: np.ndarray) -> dict[str, float]:
    answered = metrics.answers(p)
    cells = confusion_matrix(targets, answered, labels=[0, 1, 2])
    specificity = [
        np.delete(np.delete(cells, c, 0), c, 1).sum() / np.delete(cells, c, 0).sum() for c in range(3)
    ]  # fmt: skip
    return {
        "balanced_accuracy": recall_score(targets, answered, average="macro"),
        "accuracy": accuracy_score(targets, answered),
        "macro_specificity": float(np.mean(specificity)),
        "weighted_f1": f1_score(targets, answered, average="weighted"),
        "macro_auc": roc_auc_score(targets, p, multi_class="ovr", average="macro"),
        "osteoporosis_auc": roc_auc_score(targets == 2, p[:, 2]),
        "quadratic_kappa": cohen_kappa_score(targets, answered, weights="quadratic"),
        "two_classes_off": float(np.mean(np.abs(targets - answered) == 2)),
    }


# --- figures --------------------------------------------------------------------------------------------------------


def test_every_figure_agrees_with_scikit_learn_for_the_cases_and_for_every_resample() -> None:
    targets, p = random_readers()
    weights = intervals.bootstrap_weights(targets, [str(i) for i in range(len(targets))], 5, seed=3)
    for row in (np.ones(len(targets)), *weights):
        expected = sklearn_figures(*repeated(row, targets, p))
        assert set(expected) == set(metrics.METRICS)
        found = metrics.compute(targets, p, row[None])
        for name, value in expected.items():
            assert found[name][0] == pytest.approx(value, abs=1e-12), name


def test_the_papers_five_figures_agree_with_torchmetrics() -> None:
    rng = np.random.default_rng(1)
    targets = rng.choice(3, 400, p=(0.5, 0.35, 0.15))
    p = rng.dirichlet((1, 1, 1), 400) * 0.6 + 0.4 * np.eye(3)[targets]
    y, scores = torch.tensor(targets), torch.tensor(p)
    expected = {
        "accuracy": other.multiclass_accuracy(scores, y, 3, average="micro"),
        "balanced_accuracy": other.multiclass_recall(scores, y, 3, average="macro"),
        "macro_specificity": other.multiclass_specificity(scores, y, 3, average="macro"),
        "weighted_f1": other.multiclass_f1_score(scores, y, 3, average="weighted"),
        "macro_auc": other.multiclass_auroc(scores, y, 3, average="macro"),
        "quadratic_kappa": other.multiclass_cohen_kappa(scores, y, 3, weights="quadratic"),
    }
    for name, value in expected.items():
        assert metrics.figure(name, targets, p) == pytest.approx(float(value), abs=1e-6), name


def test_figures_by_hand() -> None:
    p = np.eye(3)[ANSWERS] * 0.7 + 0.1
    # Recalls 2/4, 2/3, 2/3; specificities 5/6, 5/7, 6/7; one patient in ten is two classes off.
    assert metrics.balanced_accuracy(TARGETS, p) == pytest.approx((2 / 4 + 2 / 3 + 2 / 3) / 3)
    assert metrics.figure("macro_specificity", TARGETS, p) == pytest.approx((5 / 6 + 5 / 7 + 6 / 7) / 3)
    assert metrics.figure("two_classes_off", TARGETS, p) == pytest.approx(0.1)
    # Penalties seen 1 + 4 + 1 + 1 = 7; by chance, with rows (4, 3, 3) and columns (3, 4, 3), 130/10 = 13.
    assert metrics.figure("quadratic_kappa", TARGETS, p) == pytest.approx(1 - 7 / 13)


def test_a_tie_is_answered_with_the_lower_density() -> None:
    assert metrics.answers(np.array([[0.4, 0.2, 0.4], [0.4, 0.4, 0.2], [0.5, 0.3, 0.2]])).tolist() == [2, 1, 0]


def test_balanced_sets_obey_the_papers_identity() -> None:
    # With equal class sizes macro specificity is (1 + accuracy)/2, as in all complete rows of the paper's Table II.
    rng = np.random.default_rng(0)
    targets, p = np.repeat([0, 1, 2], 26), rng.dirichlet([1, 1, 1], 78)
    accuracy = metrics.figure("accuracy", targets, p)
    assert metrics.figure("balanced_accuracy", targets, p) == pytest.approx(accuracy)
    assert metrics.figure("macro_specificity", targets, p) == pytest.approx((1 + accuracy) / 2)


def test_what_a_missing_class_leaves_undefined_is_not_a_number() -> None:
    targets, p = np.array([0, 0, 1, 1]), np.eye(3)[[0, 1, 1, 1]] * 0.7 + 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(metrics.figure("osteoporosis_auc", targets, p))
        assert metrics.figure("balanced_accuracy", targets, p) == pytest.approx(0.75)


# --- intervals ------------------------------------------------------------------------------------------------------


def test_the_papers_51_of_78_has_the_wilson_interval_that_is_told_of_it() -> None:
    found = intervals.wilson(51, 78)
    z, n, share = norm.ppf(0.975), 78, 51 / 78
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert (found["low"], found["high"]) == pytest.approx((center - half, center + half))
    assert (round(found["low"], 2), round(found["high"], 2)) == (0.54, 0.75)
    assert math.isnan(intervals.wilson(0, 0)["value"])


def test_bootstrap_interval_covers_binomial_spread() -> None:
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], 100)
    right = rng.random(300) < 0.7
    p = np.eye(3)[np.where(right, targets, (targets + 1) % 3)] * 0.7 + 0.1
    weights = intervals.bootstrap_weights(targets, [str(i) for i in range(300)], 1000, seed=0)
    found = intervals.figures(intervals.spreads(targets, p, weights))["balanced_accuracy"]
    shares = [right[targets == c].mean() for c in range(3)]
    error = math.sqrt(sum(s * (1 - s) / 100 for s in shares)) / 3
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * error, rel=0.08)
    assert found["low"] < found["value"] < found["high"]


def test_whole_patients_are_resampled_within_their_class() -> None:
    classes, patients = np.array([0, 0, 0, 2, 2, 2]), ["a", "a", "b", "c", "d", "d"]
    weights = intervals.bootstrap_weights(classes, patients, 200, seed=1)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 4] == weights[:, 5]).all()
    assert (weights[:, 0] + weights[:, 2] == 2).all()  # two patients are drawn of the two in the class
    assert (weights[:, 3] + weights[:, 4] == 2).all()
    assert weights[:, 0].std() > 0


def test_doubling_every_patients_ct_does_not_narrow_an_interval() -> None:
    targets, p = random_readers(150)
    names = [str(i) for i in range(150)]
    twice = np.tile(targets, 2), np.tile(p, (2, 1))
    width = []
    for y, probabilities, patients in ((targets, p, names), (*twice, names * 2)):
        weights = intervals.bootstrap_weights(y, patients, 600, seed=0)
        found = intervals.spreads(y, probabilities, weights, ("macro_auc",))["macro_auc"].interval()
        width.append(found["high"] - found["low"])
    assert width[1] == pytest.approx(width[0], rel=1e-9)


def test_paired_difference_of_a_reader_with_himself_is_nothing() -> None:
    targets, p = random_readers(80)
    weights = intervals.bootstrap_weights(targets, [str(i) for i in range(80)], 50, 0)
    own = intervals.spreads(targets, p, weights)
    for found in intervals.differences(own, own).values():
        assert (found["value"], found["low"], found["high"]) == (0.0, 0.0, 0.0)


def test_mcnemar_by_hand() -> None:
    first, second = np.array([1, 1, 1, 1, 1, 1, 0, 1, 0], bool), np.array([0, 0, 0, 0, 0, 0, 1, 1, 0], bool)
    # Six against one of seven discordant: two-sided 2·(C(7,0) + C(7,1))/2⁷ = 0.125.
    assert intervals.mcnemar(first, second) == {"only_first_right": 6, "only_second_right": 1, "p_value": 0.125}


def test_delong_gives_the_mann_whitney_areas_the_bootstraps_spread_and_the_p_of_a_permutation_test() -> None:
    rng = np.random.default_rng(7)
    positive = np.arange(160) < 50
    signal = positive * 1.0 + rng.normal(0, 1, 160)
    first, second = signal + rng.normal(0, 0.3, 160), signal + rng.normal(0, 2.0, 160)
    found = intervals.delong(positive, first, second)
    m, n = 50, 110

    def area(scores: np.ndarray) -> float:
        return mannwhitneyu(scores[positive], scores[~positive]).statistic / (m * n)

    assert found["value"] == pytest.approx(area(first) - area(second))
    weights = intervals.bootstrap_weights(positive.astype(int), [str(i) for i in range(160)], 2000, seed=0)
    spread = metrics.roc_auc(positive, first, weights) - metrics.roc_auc(positive, second, weights)
    assert found["high"] - found["value"] == pytest.approx(1.96 * np.std(spread), rel=0.06)

    def difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        ranks = [np.argsort(np.argsort(scores, axis=axis), axis=axis) + 1 for scores in (a, b)]
        return (ranks[0][..., positive].sum(axis=axis) - ranks[1][..., positive].sum(axis=axis)) / (m * n)

    both = [np.argsort(np.argsort(scores)).astype(float) for scores in (first, second)]
    swapped = permutation_test(both, difference, permutation_type="samples", n_resamples=4999, vectorized=True, rng=5)
    assert found["p_value"] == pytest.approx(swapped.pvalue, abs=0.02)
    assert 0.001 < found["p_value"] < 0.3


# --- calibration ----------------------------------------------------------------------------------------------------


def test_calibration_error_by_hand_and_by_torchmetrics() -> None:
    # Confidence 0.8, right in three of five: |0.6 − 0.8| = 0.2; and none for a reader who is right as often as he says.
    p = np.tile([0.8, 0.1, 0.1], (5, 1))
    assert calibration.expected_calibration_error(np.array([0, 0, 0, 1, 2]), p) == pytest.approx(0.2)
    assert calibration.expected_calibration_error(np.array([0, 0, 0, 0, 2]), p) == pytest.approx(0.0)
    targets, p = np.random.default_rng(0).integers(0, 3, 500), np.random.default_rng(1).dirichlet((1, 1, 1), 500)
    expected = other.multiclass_calibration_error(torch.tensor(p), torch.tensor(targets), 3, n_bins=15, norm="l1")
    assert calibration.expected_calibration_error(targets, p) == pytest.approx(float(expected), abs=1e-6)


def test_classwise_error_is_the_mean_of_the_binary_ones() -> None:
    targets, p = np.random.default_rng(0).integers(0, 3, 500), np.random.default_rng(1).dirichlet((1, 1, 1), 500)
    expected = [
        float(other.binary_calibration_error(torch.tensor(p[:, c]), torch.tensor((targets == c).astype(int)), 15))
        for c in range(3)
    ]
    assert calibration.classwise_calibration_error(targets, p) == pytest.approx(np.mean(expected), abs=1e-6)


def test_brier_score_and_likelihood_agree_with_scikit_learn() -> None:
    targets, p = random_readers()
    binary = [brier_score_loss(targets == c, p[:, c]) for c in range(3)]
    assert calibration.brier_score(targets, p) == pytest.approx(sum(binary))
    assert calibration.negative_log_likelihood(targets, p) == pytest.approx(log_loss(targets, p, labels=[0, 1, 2]))
    assert calibration.brier_score(np.array([0]), np.full((1, 3), 1 / 3)) == pytest.approx(2 / 3)


def test_a_calibrated_reader_stays_below_the_error_by_chance_and_a_vain_one_does_not() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet((2, 2, 2), 400)
    below = []
    for _ in range(40):
        targets = (rng.random((400, 1)) > np.cumsum(p, axis=1)[:, :2]).sum(axis=1)
        below.append(calibration.expected_calibration_error(targets, p))
    limit = calibration.ece_by_chance(p, 200, seed=1)
    assert np.mean(np.array(below) <= limit) >= 0.85
    vain = p**3 / (p**3).sum(axis=1, keepdims=True)
    assert calibration.expected_calibration_error(targets, vain) > calibration.ece_by_chance(vain, 200, seed=1)


def test_logit_scale_undoes_a_known_overconfidence_whatever_the_mix_of_classes() -> None:
    # HU-like evidence x ~ N(mean of its class, 1): the class-balanced logits are the log likelihoods of x.
    rng = np.random.default_rng(0)
    prior, means = np.array((0.5, 0.4, 0.1)), np.array((1.0, 0.0, -1.0))
    classes = rng.choice(3, 30_000, p=prior)
    x = means[classes] + rng.normal(0, 1, 30_000)
    honest = -0.5 * (x[:, None] - means) ** 2
    found = calibration.fit_logit_scale(3.0 * honest, classes, np.log(prior), tau1=1.0)
    assert found == pytest.approx(1 / 3, rel=0.04)
    # As many of each class, as in the paper's validation set: the same network, the same scale.
    count = np.bincount(classes).min()
    even = np.concatenate([np.flatnonzero(classes == c)[:count] for c in range(3)])
    mix = np.full(3, 1 / 3)
    found = calibration.fit_logit_scale(3.0 * honest[even], classes[even], np.log(prior), 1.0, mix)
    assert found == pytest.approx(1 / 3, rel=0.04)
    # For a head that gives the training population's posterior (tau1_train = 0) as well.
    posterior = honest + np.log(prior)
    found = calibration.fit_logit_scale(3.0 * posterior, classes, np.log(prior), tau1=0.0)
    assert found == pytest.approx(1 / 3, rel=0.04)


def test_reliability_bins_hold_every_case_once() -> None:
    targets, p = random_readers()
    found = calibration.reliability(targets, p)
    for c, name in enumerate(("normal", "osteopenia", "osteoporosis")):
        assert sum(b["count"] for b in found[name]) == 300
        right = sum(b["count"] * b["observed"]["value"] for b in found[name])
        assert right == pytest.approx(np.sum(targets == c))
