"""Label maps with names: any numbering in, TotalSegmentator's out, on the CT's grid."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from core.phantom import grid, phantom, reoriented

from medconv.grid import to_image
from medconv.l1_mask import center_lps_mm, volume_ml
from medconv.label_map_file import read_segmentation, write_segmentation, written_numbers
from medconv.segmentation_comparison import compare_masks, structure_mask
from medconv.types import ImageGeometry, InputRefused, SpineSegmentation, UsageError
from medconv.vertebrae import VERSE

GEOMETRY = ImageGeometry((30, 28, 26), (1.0, 1.2, 2.0), (5.0, -7.0, 100.0))


def two_levels(dtype, l1, l2):
    labels = np.zeros(GEOMETRY.shape_zyx, dtype)
    labels[14:19, 8:15, 9:20] = l1
    labels[6:11, 8:15, 9:20] = l2
    return labels


def write(path, labels, geometry=GEOMETRY):
    sitk.WriteImage(to_image(labels, geometry), str(path))
    return path


def test_the_named_labels_are_read_and_others_left_out(tmp_path) -> None:
    labels = two_levels(np.uint8, 20, 21)
    labels[0:2, 0:2, 0:2] = 99
    found, notes = read_segmentation(write(tmp_path / "m.nii.gz", labels), "verse", GEOMETRY)
    assert notes == []
    assert found.segmenter == "existing"
    assert found.start_xyz == (9, 8, 6)
    assert found.labels_zyx.shape == (13, 7, 11)
    l1 = structure_mask(found, "L1")
    assert l1 is not None
    assert np.array_equal(l1.full_array_zyx(), labels == 20)


def test_a_json_file_names_labels_above_255(tmp_path) -> None:
    (tmp_path / "names.json").write_text(json.dumps({"vertebrae_L1": 1001, "L2": 1002}))
    path = write(tmp_path / "m.nrrd", two_levels(np.int16, 1001, 1002))
    found, _ = read_segmentation(path, tmp_path / "names.json", GEOMETRY)
    assert sorted(found.names.values()) == ["L1", "L2"]
    l2 = structure_mask(found, "L2")
    assert l2 is not None
    assert l2.start_xyz == (9, 8, 6)


def test_what_is_written_can_be_read_again_with_its_own_names(tmp_path) -> None:
    verse = {label: name for name, label in VERSE.items()}
    block = np.zeros((4, 5, 6), np.uint8)
    for place, label in enumerate((19, 28, 20, 25)):  # T12, T13, L1, L6
        block[place] = label
    found = SpineSegmentation(block, (3, 4, 5), GEOMETRY, verse, "nnunet")
    write_segmentation(tmp_path, found)
    image = sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
    assert image.GetSize() == GEOMETRY.size_xyz
    assert image.GetOrigin() == pytest.approx(GEOMETRY.origin_lps_mm)
    whole = sitk.GetArrayFromImage(image)
    assert [int(whole[5 + place, 4, 3]) for place in range(4)] == [32, 121, 31, 118]  # TotalSegmentator's 31 is L1
    assert np.count_nonzero(whole) == block.size
    again, _ = read_segmentation(tmp_path / "labels.nii.gz", tmp_path / "labels.json", GEOMETRY)
    for name in ("T12", "T13", "L1", "L6"):
        one, other = structure_mask(found, name), structure_mask(again, name)
        assert one is not None
        assert other is not None
        assert np.array_equal(one.full_array_zyx(), other.full_array_zyx())


def test_structures_without_a_number_get_numbers_of_their_own() -> None:
    numbers = written_numbers({1: "L1", 2: "coccyx", 3: "transitional", 4: "rib_left_12"})
    assert numbers == {"L1": 31, "coccyx": 122, "transitional": 123, "rib_left_12": 103}


def test_a_map_on_another_grid_is_brought_onto_the_cts(tmp_path) -> None:
    fine = phantom(grid((1.0, 1.0, 1.0)))
    coarse = phantom(grid((1.5, 1.5, 2.0)))
    turned = reoriented(coarse, "PIR")
    path = write(tmp_path / "m.nii.gz", turned.labels_zyx, turned.ct.geometry)
    found, notes = read_segmentation(path, "totalsegmentator", fine.ct.geometry)
    assert [note.code for note in notes] == ["mask_resampled"]
    l1 = structure_mask(found, "L1")
    assert l1 is not None
    assert compare_masks(l1, fine.mask).dice > 0.93
    assert center_lps_mm(l1) == pytest.approx(center_lps_mm(coarse.mask), abs=0.2)
    assert volume_ml(l1) == pytest.approx(volume_ml(coarse.mask), rel=0.02)


def test_what_cannot_be_used_is_told(tmp_path) -> None:
    path = write(tmp_path / "m.nii.gz", two_levels(np.uint8, 60, 61))
    with pytest.raises(InputRefused, match="none of the labels"):
        read_segmentation(path, "verse", ImageGeometry((30, 28, 26), (1.0, 1.2, 2.0), (5.0, -7.0, 100.0)))
    with pytest.raises(UsageError, match="no label map"):
        read_segmentation(path, "numbers", GEOMETRY)
    far = write(
        tmp_path / "far.nii.gz",
        two_levels(np.uint8, 31, 30),
        ImageGeometry((30, 28, 26), (1.0, 1.2, 2.0), (900.0, 0.0, 0.0)),
    )
    with pytest.raises(InputRefused, match="outside the CT"):
        read_segmentation(far, "totalsegmentator", GEOMETRY)
