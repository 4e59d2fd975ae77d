"""Specks far from their vertebra go; what could be half a vertebra, or a part of it, stays."""

from __future__ import annotations

import numpy as np
import pytest

from medconv.segmenters.strays import without_strays
from medconv.types import ImageGeometry

L1, RIB = 31, 103
NAMES = {L1: "L1", RIB: "rib_left_12"}
GRID = ImageGeometry((60, 60, 80), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))


@pytest.fixture
def labels() -> np.ndarray:
    """A body of 12 x 10 x 9 voxels of 3 mm (29 ml), its lower end at slice 20."""
    made = np.zeros(GRID.shape_zyx, np.uint8)
    made[20:29, 20:30, 20:32] = L1
    return made


def test_a_speck_far_away_goes(labels: np.ndarray) -> None:
    whole = labels.copy()
    labels[60:62, 20:22, 20:22] = L1
    assert np.array_equal(without_strays(labels, GRID, NAMES), whole)


def test_a_part_close_by_stays(labels: np.ndarray) -> None:
    labels[24:26, 33:35, 25:27] = L1  # 3 voxels, 9 mm behind the body: the tip of a process
    assert np.array_equal(without_strays(labels, GRID, NAMES), labels)


def test_half_a_vertebra_elsewhere_stays_for_the_level_check(labels: np.ndarray) -> None:
    labels[50:55, 20:30, 20:26] = L1  # 300 voxels, 8.1 ml
    assert np.array_equal(without_strays(labels, GRID, NAMES), labels)


def test_a_broken_rib_stays(labels: np.ndarray) -> None:
    labels[30:32, 5:7, 5:20] = RIB
    labels[40:42, 40:42, 40:42] = RIB
    assert np.array_equal(without_strays(labels, GRID, NAMES), labels)


def test_what_was_given_is_not_changed(labels: np.ndarray) -> None:
    labels[60:62, 20:22, 20:22] = L1
    before = labels.copy()
    without_strays(labels, GRID, NAMES)
    assert np.array_equal(labels, before)
