"""Two passes over one CT become one segmentation: worked by hand on small blocks."""

from __future__ import annotations

import numpy as np
import pytest

from medconv.segmenters.two_passes import combine, largest_piece, overlay

T12, L1, L2, RIB = 32, 31, 30, 92
VERTEBRAE = (T12, L1, L2)


def column(*rows: tuple[int, slice], width: int = 10) -> np.ndarray:
    """A block of 40 slices, `width` wide, in which each label fills a range of slices."""
    block = np.zeros((40, 10, width), np.uint8)
    for label, slices in rows:
        block[slices] = label
    return block


COARSE = column((L2, slice(2, 12)), (L1, slice(14, 24)), (T12, slice(26, 36)))


def run(coarse: np.ndarray, fine: np.ndarray, refine=VERTEBRAE):
    return combine(coarse, fine, VERTEBRAE, refine, L1)


def test_the_fine_pass_draws_the_boundaries() -> None:
    fine = column((L2, slice(3, 12)), (L1, slice(15, 25)), (T12, slice(26, 37)))
    combined = run(COARSE, fine)
    assert np.array_equal(combined.labels_zyx, fine)
    assert combined.refined == VERTEBRAE
    assert combined.l1_agreed
    assert combined.l1_dice == pytest.approx(0.9)


def test_the_coarse_pass_gives_the_names_and_the_disagreement_is_told() -> None:
    """The fine pass calls T12 what the coarse one calls L1, and so on."""
    fine = column((L1, slice(3, 12)), (T12, slice(15, 25)), (33, slice(26, 36)))
    combined = combine(COARSE, fine, (*VERTEBRAE, 33), VERTEBRAE, L1)
    assert np.array_equal(combined.labels_zyx, column((L2, slice(3, 12)), (L1, slice(15, 25)), (T12, slice(26, 36))))
    assert not combined.l1_agreed
    assert combined.l1_dice == 0.0


def test_one_fine_label_over_two_vertebrae_is_divided_as_the_coarse_pass_divides_it() -> None:
    fine = column((L1, slice(3, 25)), (T12, slice(26, 36)))
    combined = run(COARSE, fine)
    assert np.array_equal(combined.labels_zyx[3:12], COARSE[3:12])
    assert np.array_equal(combined.labels_zyx[14:24], COARSE[14:24])
    assert set(combined.refined) == set(VERTEBRAE)
    assert not combined.l1_agreed
    assert combined.l1_dice == pytest.approx(2 * 10 / (22 + 10))


def test_specks_of_the_fine_pass_away_from_the_vertebra_are_dropped() -> None:
    fine = COARSE.copy()
    fine[38:40, 0:2, 0:2] = L1
    combined = run(COARSE, fine)
    assert np.array_equal(combined.labels_zyx, COARSE)
    assert combined.l1_agreed
    assert combined.l1_dice == 1.0


def test_a_vertebra_that_the_fine_pass_lost_keeps_the_coarse_outline() -> None:
    fine = column((L2, slice(2, 12)), (L1, slice(14, 16)), (T12, slice(26, 36)))
    combined = run(COARSE, fine)
    assert combined.refined == (T12, L2)
    assert not (combined.labels_zyx == L1).any()
    assert not combined.l1_agreed


def test_what_is_no_vertebra_in_the_fine_pass_is_not_taken() -> None:
    fine = COARSE.copy()
    fine[0:2] = RIB
    assert np.array_equal(run(COARSE, fine).labels_zyx, COARSE)


@pytest.mark.parametrize(
    ("fine_l1", "coarse_l1", "agreed"),
    [((14, 24), None, False), (None, (14, 24), False), (None, None, True), ((37, 40), None, True)],
)
def test_an_l1_that_only_one_pass_sees(fine_l1, coarse_l1, agreed: bool) -> None:
    """It is a disagreement where the other pass sees another vertebra, or none where there should be one."""
    coarse, fine = column((T12, slice(14, 36))), column((T12, slice(26, 36)))
    if coarse_l1:
        coarse[slice(*coarse_l1)] = L1
    if fine_l1:
        fine[slice(*fine_l1)] = L1
    combined = run(coarse, fine, (T12,))
    assert combined.l1_dice is None
    assert combined.l1_agreed is agreed


def test_fine_vertebrae_replace_the_coarse_ones_on_the_ct() -> None:
    coarse = column((L1, slice(14, 24)), (RIB, slice(30, 32)))
    coarse[0, 0, 0] = L1  # a speck of the coarse pass outside the fine block
    fine = np.full((8, 5, 6), L1, np.uint8)
    fine[:, 0] = 0
    labels, start = overlay(coarse, (100, 50, 20), fine, (107, 52, 35))
    assert start == (100, 50, 20)
    expected = np.zeros((40, 10, 13), np.uint8)
    expected[30:32, :, :10] = RIB
    expected[15:23, 3:7, 7:13] = L1
    assert np.array_equal(labels, expected)


def test_the_largest_piece_is_kept() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[0, 0, :2] = mask[3:5, 3:5, 3:5] = True
    kept = largest_piece(mask)
    assert kept.sum() == 8
    assert kept[3, 3, 3]
    assert not largest_piece(np.zeros((2, 2, 2), bool)).any()
