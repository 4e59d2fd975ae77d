"""`--label N` measures what it is told to, and says what the mask's other labels say of that."""

import numpy as np
import pytest
from core.phantom import reoriented, write
from core.spine_phantom import Phantom, spine_phantom

from medconv.case_reading import read_around_mask
from medconv.vertebrae import TOTALSEGMENTATOR, VERSE
from medconv.volume_io import open_ct


@pytest.fixture(scope="module")
def usual():
    """T11 to L5 with ribs and sacrum in TotalSegmentator's numbers; treat as read-only."""
    return spine_phantom()


def note(case, folder, label, code="LPS"):
    ct, mask = write(reoriented(case, code), folder)
    read = read_around_mask(open_ct(ct), mask, label)
    (found,) = (n for n in read.notes if n.code in ("level_not_checked", "label_contradicts_numbering"))
    return found


def renumbered(case, numbers):
    """numbers: old label to new; all else is left out."""
    labels = np.zeros_like(case.labels_zyx)
    for old, new in numbers.items():
        labels[case.labels_zyx == old] = new
    return Phantom(case.ct, labels)


VERTEBRAE = ("T11", "T12", "L1", "L2", "L3", "L4", "L5")
AS_VERSE = {TOTALSEGMENTATOR[name]: VERSE[name] for name in VERTEBRAE}


@pytest.mark.parametrize("code", ["LPS", "RAI", "PIR"])
def test_the_numbering_that_fits_is_named(usual, tmp_path, code):
    found = note(usual, tmp_path, 31, code)
    assert (found.code, found.severity) == ("level_not_checked", "info")
    assert found.message == (
        "Label 31 was taken as L1 because you said so; its neighbours were not looked at. Its labels are numbered like "
        "TotalSegmentator's: --label-map totalsegmentator checks the level."
    )


@pytest.mark.parametrize("code", ["LPS", "PIR"])
def test_a_label_that_is_another_vertebra_in_the_likely_numbering_is_a_warning(usual, tmp_path, code):
    found = note(renumbered(usual, AS_VERSE), tmp_path, 22, code)
    assert (found.code, found.severity) == ("label_contradicts_numbering", "warning")
    assert "numbered like VerSe's, where 22 is L3 and L1 is 20" in found.message


def test_three_neighbouring_labels_are_enough(usual, tmp_path):
    found = note(renumbered(usual, {30: 21, 29: 22, 28: 23}), tmp_path, 22)
    assert "VerSe's, where 22 is L3" in found.message


def test_another_vertebra_under_l1s_number_is_a_warning(usual, tmp_path):
    exchanged = {label: label for label in range(26, 34) if label not in (28, 31)} | {28: 31}
    found = note(renumbered(usual, exchanged), tmp_path, 31)
    assert found.severity == "warning"
    assert found.message.endswith("numbered like TotalSegmentator's, but 31 does not lie where that number belongs.")


@pytest.mark.parametrize("label", [None, 1])
def test_a_mask_of_one_label_was_not_checked(usual, tmp_path, label):
    found = note(renumbered(usual, {31: 1}), tmp_path, label)
    assert (found.code, found.severity) == ("level_not_checked", "info")
    assert found.message.endswith("its neighbours were not looked at. The mask holds no others.")


def test_numbers_of_no_known_map_are_not_guessed(usual, tmp_path):
    found = note(renumbered(usual, {31: 3, 30: 7, 29: 2}), tmp_path, 3)
    assert found.message.endswith("its neighbours were not looked at.")


def test_the_costal_cartilages_are_no_sign_of_another_numbering(usual, tmp_path):
    """TotalSegmentator's last label is 117; 118 is nobody's."""
    exchanged = {label: label for label in range(26, 34) if label not in (28, 31)} | {28: 31}
    for number, code in {117: "label_contradicts_numbering", 118: "level_not_checked"}.items():
        found = note(renumbered(usual, exchanged | {25: number}), tmp_path, 31)
        assert found.code == code
