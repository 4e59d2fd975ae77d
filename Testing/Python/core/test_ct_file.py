"""A CT handed over as raw voxels: written in pieces, mapped, unchanged, and without an identity."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from core.phantom import phantom, reoriented

from medconv.ct_file import CTFileWriter, load_ct
from medconv.types import Acquisition, CTVolume, ImageGeometry

ACQUISITION = Acquisition("CT", 120.0, 1.25, "B30f/Ünï", "Omnipaque", 61, "F", ("ORIGINAL", "PRIMARY", "AXIAL"))


def ct_of(array_zyx: np.ndarray) -> CTVolume:
    depth, height, width = array_zyx.shape
    return CTVolume(array_zyx, ImageGeometry((width, height, depth), (0.7, 0.8, 2.5), (-1.5, 20.25, -300.125)))


def written(folder, ct, piece=1_000_000):
    folder.mkdir(exist_ok=True)
    writer = CTFileWriter(folder, ct)
    while not writer.write_some(piece):
        pass
    return writer.path


def test_voxels_grid_and_acquisition_arrive_as_they_were(tmp_path):
    ct = replace(reoriented(phantom(), "PIR").ct, acquisition=ACQUISITION, is_simulated=True)
    loaded = load_ct(written(tmp_path / "Fäll mit Leerzeichen", ct))
    assert np.array_equal(loaded.array_zyx, ct.array_zyx)
    assert loaded.array_zyx.dtype == np.int16
    assert loaded.geometry == ct.geometry
    assert loaded.acquisition == ACQUISITION
    assert loaded.is_simulated is True


def test_the_voxels_are_mapped_and_can_not_be_changed(tmp_path):
    ct = ct_of(np.full((64, 256, 256), 7, np.int16))
    path = written(tmp_path, ct)
    tracemalloc.start()
    loaded = load_ct(path)
    assert tracemalloc.get_traced_memory()[1] < ct.array_zyx.nbytes / 10
    tracemalloc.stop()
    assert isinstance(loaded.keep_alive, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        loaded.array_zyx[0, 0, 0] = 1
    values = load_ct(path).array_zyx  # its CTVolume is gone
    assert values.sum() == 7 * 64 * 256 * 256


def test_on_the_disk_are_the_plain_voxels(tmp_path):
    array = np.arange(-60, 60).reshape(4, 5, 6).astype(np.int16)
    path = written(tmp_path, ct_of(array))
    assert (path.parent / "ct.raw").read_bytes() == array.astype("<i2").tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24).reshape(2, 3, 4).astype(np.float64) - 1024,
        np.arange(24).reshape(2, 3, 4).astype(">i2"),
        np.arange(24).reshape(2, 3, 4).astype(np.uint8),
        np.arange(24).reshape(2, 3, 4).astype(np.uint16),
        np.arange(24).reshape(2, 3, 4).astype(np.int64) - 32768,
        np.arange(24).reshape(4, 3, 2).astype(np.int16).transpose(2, 1, 0),
        np.arange(24).reshape(2, 3, 4).astype(np.int16)[:, ::-1, ::2],
    ],
    ids=["float64", "big-endian", "uint8", "uint16", "int64", "transposed", "strided"],
)
def test_whole_values_that_fit_are_stored_as_int16(tmp_path, array):
    loaded = load_ct(written(tmp_path, ct_of(array)))
    assert loaded.array_zyx.dtype == np.dtype("<i2")
    assert loaded.array_zyx.tolist() == array.tolist()


@pytest.mark.parametrize("last", [0.5, 32768.0, -32769.0, 1e10, np.nan, np.inf])
def test_values_that_int16_can_not_hold_are_stored_as_float32_all_of_them(tmp_path, last):
    """The value stands in the last slice: what was written until then is written again."""
    array = np.arange(600, dtype=np.float64).reshape(6, 10, 10)
    array[-1, -1, -1] = last
    loaded = load_ct(written(tmp_path, ct_of(array), piece=200))
    assert loaded.array_zyx.dtype == np.dtype("<f4")
    assert np.array_equal(loaded.array_zyx, array.astype(np.float32), equal_nan=True)


def test_large_whole_numbers_are_not_wrapped(tmp_path):
    array = np.array([[[65536, 70000]]], np.int32)
    assert load_ct(written(tmp_path, ct_of(array))).array_zyx.tolist() == [[[65536.0, 70000.0]]]


def test_it_is_written_in_pieces_and_complete_only_at_the_end(tmp_path):
    ct = ct_of(np.zeros((10, 50, 50), np.int16))  # 5000 bytes a slice
    writer, sizes, answers = CTFileWriter(tmp_path, ct), [], []
    while not (answers and answers[-1]):
        assert not writer.path.exists()
        answers.append(writer.write_some(15_000))
        sizes.append((tmp_path / "ct.raw").stat().st_size)
    assert sizes == [15_000, 30_000, 45_000, 50_000]
    assert answers == [False, False, False, True]
    assert writer.fraction == 1.0


def test_a_piece_smaller_than_a_slice_still_gets_on(tmp_path):
    writer = CTFileWriter(tmp_path, ct_of(np.zeros((3, 50, 50), np.int16)))
    assert [writer.write_some(1) for _ in range(3)] == [False, False, True]


def test_writing_takes_the_memory_of_some_slices_not_of_the_ct(tmp_path):
    ct = ct_of(np.zeros((100, 128, 128), np.float64))  # 131 kB a slice, 13 MB in all
    writer = CTFileWriter(tmp_path, ct)
    tracemalloc.start()
    while not writer.write_some(1_000_000):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 128 * 128 * 8


def test_neither_file_nor_name_tells_whose_ct_it_is(tmp_path):
    ct = replace(phantom().ct, source="DOE_JANE_19510203.nii.gz", acquisition=ACQUISITION)
    path = written(tmp_path / "job-1", ct)
    files = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert [p.name for p in files] == ["ct.json", "ct.raw"]
    assert not any(b"DOE" in p.read_bytes() for p in files)
    assert load_ct(path).source == ""


def test_a_ct_that_was_not_written_to_its_end_is_not_loaded(tmp_path):
    writer = CTFileWriter(tmp_path, ct_of(np.zeros((10, 50, 50), np.int16)))
    writer.write_some(10_000)
    writer.close()
    writer.close()
    with pytest.raises(FileNotFoundError):
        load_ct(writer.path)


def test_a_cut_off_file_is_not_loaded(tmp_path):
    path = written(tmp_path, ct_of(np.zeros((10, 50, 50), np.int16)))
    raw = tmp_path / "ct.raw"
    raw.write_bytes(raw.read_bytes()[:-1])
    with pytest.raises(ValueError):
        load_ct(path)
    path.write_text(json.dumps({"dtype": "<i2"}))
    with pytest.raises(KeyError):
        load_ct(path)


def test_a_folder_that_is_gone_is_told_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError):
        CTFileWriter(tmp_path / "gone", ct_of(np.zeros((1, 2, 2), np.int16))).write_some(1)
