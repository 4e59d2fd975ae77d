"""A segmentation handed over as a file: everything arrives, nothing is unpickled, damage is noticed."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from medconv.segmentation_file import load_segmentation, save_segmentation
from medconv.types import ImageGeometry, QualityNote, Severity, SpineSegmentation

OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)


def segmentation(**changes) -> SpineSegmentation:
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 2, 3], labels[0, 0, 0] = 31, 255
    fields = {
        "labels_zyx": labels,
        "start_xyz": (10, 20, 30),
        "ct_geometry": ImageGeometry((100, 110, 120), (0.7, 0.8, 2.5), (-1.5, 20.25, -300.125), OBLIQUE),
        "names": {31: "L1", 255: "rib_left_12"},
        "segmenter": "nnunet",
        "identity": "Ünï 0123456789ab",
        "is_demonstration": True,
        "notes": (QualityNote("gpu_full", Severity.WARNING, "The graphics card’s memory was full."),),
        "timing_s": {"total": 12.5},
    }
    return SpineSegmentation(**(fields | changes))


def test_everything_arrives_as_it_was(tmp_path):
    original = segmentation()
    save_segmentation(tmp_path / "Fäll 1.npz", original)
    loaded = load_segmentation(tmp_path / "Fäll 1.npz")
    assert loaded.labels_zyx.dtype == np.uint8
    assert np.array_equal(loaded.labels_zyx, original.labels_zyx)
    everything = {name: value for name, value in asdict(original).items() if name != "labels_zyx"}
    assert {name: value for name, value in asdict(loaded).items() if name != "labels_zyx"} == everything
    assert loaded.geometry == original.geometry
    assert loaded.notes[0].severity is Severity.WARNING
    assert loaded.label_of("L1") == 31


def test_numpy_numbers_and_nothing_found_are_fine(tmp_path):
    original = segmentation(
        labels_zyx=np.zeros((0, 0, 0), np.uint8),
        start_xyz=tuple(np.int64(n) for n in (1, 2, 3)),
        names={np.uint8(31): "L1"},
        timing_s={"total": np.float32(0.5)},
        notes=(),
    )
    save_segmentation(tmp_path / "s.npz", original)
    loaded = load_segmentation(tmp_path / "s.npz")
    assert loaded.labels_zyx.shape == (0, 0, 0)
    assert (loaded.start_xyz, loaded.names, loaded.timing_s) == ((1, 2, 3), {31: "L1"}, {"total": 0.5})


def test_labels_that_are_a_view_of_a_larger_array_are_written_alone(tmp_path):
    large = np.arange(1000).reshape(10, 10, 10).astype(np.uint8)
    save_segmentation(tmp_path / "s.npz", segmentation(labels_zyx=large[2:4, ::-1, 1:3]))
    assert np.array_equal(load_segmentation(tmp_path / "s.npz").labels_zyx, large[2:4, ::-1, 1:3])


def test_the_file_holds_no_pickles(tmp_path):
    save_segmentation(tmp_path / "s.npz", segmentation())
    with np.load(tmp_path / "s.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == ["facts", "labels"]
        assert json.loads(str(archive["facts"]))["names"] == {"31": "L1", "255": "rib_left_12"}


def test_a_pickle_in_its_place_is_not_run(tmp_path):
    np.savez(tmp_path / "s.npz", labels=np.array([{"a": 1}], object), facts=np.array("{}"))
    with pytest.raises(ValueError):
        load_segmentation(tmp_path / "s.npz")


@pytest.mark.parametrize("keep", [0, 1, 50, 200, -1])
def test_a_damaged_file_is_noticed(tmp_path, keep):
    path = tmp_path / "s.npz"
    save_segmentation(path, segmentation())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError):
        load_segmentation(path)
