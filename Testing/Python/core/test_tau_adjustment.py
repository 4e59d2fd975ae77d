"""Tau: hand-worked numbers, scipy as oracle, and the limits."""

import math

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.special import softmax as scipy_softmax

from medconv.config import CLASS_ORDER
from medconv.tau_adjustment import METHODS, adjust, choice_notes
from medconv.types import Adjustment, TScoreClass, UsageError

PRIOR = dict(zip(CLASS_ORDER, (0.5, 0.4, 0.1), strict=True))
LOG_PRIOR = np.log([0.5, 0.4, 0.1])


def probabilities(z, method, tau1, tau2, tau1_train=1.0):
    result = adjust(
        dict(zip(CLASS_ORDER, z, strict=True)),
        Adjustment(method, tau1, tau2),
        class_prior=PRIOR,
        minority_classes=(TScoreClass.OSTEOPOROSIS,),
        tau1_train=tau1_train,
    )
    assert list(result) == list(CLASS_ORDER)
    return np.array(list(result.values()))


def test_log_prior_gives_the_hand_worked_numbers():
    p = probabilities((1, 0, 0), "log_prior", 1, 0.5)
    assert p == pytest.approx([0.669540, 0.220306, 0.110153], abs=1e-6)


def test_log_prior_with_tau2_zero_is_the_training_populations_posterior():
    z = (0.3, -1.2, 2.0)
    assert probabilities(z, "log_prior", 1, 0) == pytest.approx(scipy_softmax(np.array(z) + LOG_PRIOR))


def test_log_prior_with_tau2_one_leaves_the_logits_alone():
    z = (0.3, -1.2, 2.0)
    assert probabilities(z, "log_prior", 1, 1) == pytest.approx(scipy_softmax(z))


def test_log_prior_undoes_any_training_tau():
    z = (0.3, -1.2, 2.0)
    expected = scipy_softmax(np.array(z) + (0.7 - 0.2) * LOG_PRIOR)
    assert probabilities(z, "log_prior", 0.7, 0.2, tau1_train=0.7) == pytest.approx(expected)


def test_at_the_published_tau_log_prior_equals_the_authors_test_script():
    z = (0.3, -1.2, 2.0)
    assert probabilities(z, "log_prior", 1, 0.5) == pytest.approx(probabilities(z, "legacy_test", 1, 0.5))


def test_the_two_legacy_signs_are_opposite():
    z = np.array((0.3, -1.2, 2.0))
    assert probabilities(z, "legacy_validation", 1, 0.8) == pytest.approx(scipy_softmax(z - 0.8 * LOG_PRIOR))
    assert probabilities(z, "legacy_test", 1, 0.8) == pytest.approx(scipy_softmax(z + 0.8 * LOG_PRIOR))


def test_temperature_divides_minority_by_tau2_and_the_others_by_tau1():
    # z − mean = (1, 0, −1); /(2, 2, 0.5) = (0.5, 0, −2); e^ = 1.648721, 1, 0.135335; sum 2.784056
    p = probabilities((3, 2, 1), "temperature", 2, 0.5)
    assert p == pytest.approx([0.592201, 0.359188, 0.048611], abs=1e-6)


def test_temperature_does_not_depend_on_a_constant_added_to_all_logits():
    assert probabilities((3, 2, 1), "temperature", 1, 0.5) == pytest.approx(
        probabilities((103, 102, 101), "temperature", 1, 0.5)
    )


def test_temperature_one_is_plain_softmax():
    z = (0.1, 0.2, -3)
    assert np.log(probabilities(z, "temperature", 1, 1)) == pytest.approx(log_softmax(z))


@pytest.mark.parametrize("method", [m.id for m in METHODS])
def test_huge_logits_stay_finite(method):
    p = probabilities((1e4, -1e4, 0), method, 1, 0.5)
    assert np.isfinite(p).all()
    assert p.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("method", "tau1", "tau2", "code"),
    [
        ("log_prior", 0.5, 0.5, "tau1_is_fixed"),
        ("temperature", 1.0, 0.0, "tau_out_of_range"),
        ("temperature", 0.0, 1.0, "tau_out_of_range"),
        ("log_prior", 1.0, math.nan, "tau_out_of_range"),
        ("log_prior", 1.0, -0.1, "tau_out_of_range"),
        ("sharpen", 1.0, 0.5, "unknown_adjustment"),
    ],
)
def test_a_tau_without_meaning_is_refused_by_name(method, tau1, tau2, code):
    with pytest.raises(UsageError) as caught:
        probabilities((0, 0, 0), method, tau1, tau2)
    assert caught.value.code == code


def test_moving_away_from_the_validated_tau_is_noted():
    default = Adjustment("log_prior", 1, 0.5)
    assert choice_notes(default, default) == []
    (note,) = choice_notes(Adjustment("log_prior", 1, 0.6), default)
    assert note.code == "adjustment_not_default"
