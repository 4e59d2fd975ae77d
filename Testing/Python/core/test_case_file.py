"""A case through a file: every voxel and every word of it, with the level or without."""

from dataclasses import replace

import numpy as np
import pytest

from medconv import pipeline
from medconv.case_file import load_case, save_case
from medconv.types import LevelChoice, QualityNote, Severity

DOUBTS = (
    QualityNote("level_missing", Severity.WARNING, "L3 was not found between L2 and L4, which are 72 mm apart."),
    QualityNote("no_landmark", Severity.WARNING, "Neither the twelfth rib nor the sacrum was found."),
)


@pytest.mark.parametrize(
    "level",
    [
        None,
        LevelChoice("L1", "L1", "segmenter", "totalsegmentator"),
        LevelChoice("T12", "T12", "person", "nnunet", DOUBTS),
    ],
)
def test_a_case_comes_back_as_it_was(vertebra, tmp_path, level):
    note = QualityNote("stray_voxels_removed", Severity.INFO, "2 stray pieces µ were left out.")
    case = pipeline.prepare(vertebra.ct, vertebra.mask, notes=[note], level=level)
    save_case(tmp_path / "case.npz", case)
    back = load_case(tmp_path / "case.npz")
    assert np.array_equal(back.ct.array_zyx, case.ct.array_zyx)
    assert np.array_equal(back.mask_zyx, case.mask_zyx)
    assert back.level == level
    assert back.vertebra == ("L1" if level is None else level.used_as)
    same = {"ct": case.ct, "mask_zyx": case.mask_zyx}
    assert replace(back, **same) == case
    assert back.ct.geometry == case.ct.geometry
    assert back.ct.acquisition == case.ct.acquisition


def test_what_is_no_case_is_not_read(tmp_path):
    np.savez(tmp_path / "other.npz", hu=np.zeros((2, 2, 2)))
    with pytest.raises(KeyError):
        load_case(tmp_path / "other.npz")
