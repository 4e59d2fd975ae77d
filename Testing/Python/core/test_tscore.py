"""WHO limits belong to the classes as written; ties and disagreements are read on the safe side."""

import pytest

from medconv.tscore import agreement_notes, classify, headline, most_probable, scope_notes
from medconv.types import Acquisition, TScoreClass

N, P, O = TScoreClass.NORMAL, TScoreClass.OSTEOPENIA, TScoreClass.OSTEOPOROSIS  # noqa: E741


@pytest.mark.parametrize(
    ("t", "expected"), [(3.0, N), (-0.999, N), (-1.0, N), (-1.001, P), (-2.499, P), (-2.5, O), (-2.501, O), (-6, O)]
)
def test_limits(t, expected):
    assert classify(t) is expected


@pytest.mark.parametrize("t", [float("nan"), float("inf")])
def test_not_a_number_has_no_class(t):
    with pytest.raises(ValueError, match="finite"):
        classify(t)


def test_equal_probabilities_name_the_lower_density():
    assert most_probable({N: 0.4, P: 0.2, O: 0.4}) is O
    assert most_probable({N: 0.4, P: 0.4, O: 0.2}) is P
    assert most_probable({N: 0.5, P: 0.3, O: 0.2}) is N


def test_who_classes_are_not_for_the_young():
    assert [n.code for n in scope_notes(Acquisition(patient_age_years=35))] == ["outside_who_scope"]
    assert scope_notes(Acquisition(patient_age_years=50)) == []
    assert scope_notes(Acquisition()) == []


@pytest.mark.parametrize(
    ("c", "hu", "warned"),
    [(N, 110.0, True), (N, 111.0, False), (P, 60.0, False), (O, 201.0, True), (O, 200.0, False), (O, 80.0, False)],
)
def test_class_and_attenuation_at_opposite_ends_are_called_indeterminate(c, hu, warned):
    assert [n.code for n in agreement_notes(c, hu)] == ["network_and_attenuation_disagree"] * warned


@pytest.mark.parametrize(
    ("c", "codes", "possible", "expected"),
    [
        (P, [], (), "Osteopenia (T-score between −2.5 and −1.0)"),
        (P, ["kvp_unknown"], ("osteopenia",), "Osteopenia (T-score between −2.5 and −1.0)"),
        (P, ["indeterminate"], ("osteopenia", "osteoporosis"), "Osteopenia, or osteoporosis"),
        (P, ["indeterminate"], ("normal", "osteopenia", "osteoporosis"), "Osteopenia, or normal or osteoporosis"),
        (N, ["indeterminate"], ("osteopenia", "osteoporosis"), "Normal, or osteopenia or osteoporosis"),  # tau moved
        (P, ["indeterminate"], (), "Osteopenia, indeterminate"),
        (O, ["outside_who_scope"], (), "Osteoporosis, but WHO classes do not apply"),
        (N, ["network_and_attenuation_disagree"], ("normal",), "Normal, but the attenuation disagrees"),
        (
            P,
            ["outside_who_scope", "indeterminate"],
            (P, O),
            "Osteopenia, or osteoporosis, but WHO classes do not apply",
        ),
    ],
)
def test_a_class_that_a_note_qualifies_is_never_the_headline_alone(c, codes, possible, expected):
    assert headline(c, codes, possible) == expected
