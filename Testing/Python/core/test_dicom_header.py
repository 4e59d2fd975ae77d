"""The quick look at a DICOM header tells what SimpleITK tells, and leaves to it what it does not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from core.dicom_writer import write_series
from core.phantom import grid, phantom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from medconv.dicom_header import read_header
from medconv.dicom_slices import SLICE_TAGS, all_tags, header_reader, read_slice_headers


@pytest.fixture
def file(tmp_path: Path) -> Path:
    ct = phantom(grid((4.0, 4.0, 5.0), (160.0, 120.0, 40.0))).ct
    write_series(tmp_path / "s", ct, age="061Y", ContrastBolusAgent="Iomeprol", ImageType=["ORIGINAL", "PRIMARY"])
    return sorted((tmp_path / "s").iterdir())[3]


def nested(depth: int) -> Sequence:
    """A sequence in a sequence, with lengths that are known only at their ends."""
    item = Dataset()
    item.CodeMeaning = "x" * 301
    if depth:
        item.PurposeOfReferenceCodeSequence = nested(depth - 1)
        item["PurposeOfReferenceCodeSequence"].is_undefined_length = True
    item.is_undefined_length_sequence_item = depth % 2 == 0
    return Sequence([item, item])


def saved(file: Path, syntax: str, with_sequences: bool = True) -> Path:
    dataset = pydicom.dcmread(file)
    if with_sequences:
        dataset.SourceImageSequence = nested(2)
        dataset["SourceImageSequence"].is_undefined_length = True
        dataset.add_new((0x0009, 0x0010), "LO", "SOMEBODY")
        dataset.add_new((0x0009, 0x1001), "UN", bytes(30_000))  # the header goes beyond the first piece that is read
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    implicit = syntax == ImplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(file, dataset, implicit_vr=implicit, little_endian=syntax != ExplicitVRBigEndian)
    return file


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("with_sequences", [True, False])
def test_the_tags_are_those_of_simpleitk(file, syntax, with_sequences):
    path = saved(file, syntax, with_sequences)
    header, expected = read_header(path, SLICE_TAGS), all_tags(header_reader(str(path)))
    assert header is not None
    assert header.is_whole
    for key in SLICE_TAGS:
        assert header.tags.get(key, "").strip(" \0") == expected.get(key, "").strip(" \0")
    assert header.tags["0010|1010"] == "061Y"
    (slice_header,) = read_slice_headers([str(path)])
    assert slice_header.shape_yx == (30, 40)
    assert slice_header.acquisition.contrast_agent == "Iomeprol"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("missing", [1, 100])
def test_a_file_without_all_its_pixels_is_not_taken_for_whole(file, syntax, missing):
    path = saved(file, syntax)
    path.write_bytes(path.read_bytes()[:-missing])
    header = read_header(path, SLICE_TAGS)
    assert header is not None
    assert not header.is_whole


def test_pixels_that_are_fewer_than_rows_and_columns_say_are_doubtful(file):
    dataset = pydicom.dcmread(file)
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]
    dataset.save_as(file)
    header = read_header(file, SLICE_TAGS)
    assert header is not None
    assert not header.is_whole


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_rare_syntaxes_are_left_to_simpleitk(file, syntax):
    if syntax == ExplicitVRBigEndian:
        data = bytearray(file.read_bytes())
        at = data.index(b"1.2.840.10008.1.2.1\0")
        data[at : at + 20] = b"1.2.840.10008.1.2.2\0"
        file.write_bytes(data)
    else:
        saved(file, syntax)
    assert read_header(file, SLICE_TAGS) is None


def test_what_is_no_dicom_or_ends_within_its_header_is_left_to_simpleitk(file, tmp_path):
    data = file.read_bytes()
    for name, some in (("a", b""), ("b", b"no image" * 50), ("c", data[:700]), ("d", data[:140]), ("e", data[4:])):
        (tmp_path / name).write_bytes(some)
        assert read_header(tmp_path / name, SLICE_TAGS) is None
    rng = np.random.default_rng(0)
    for _ in range(300):  # damaged headers: an answer or None, never an exception
        spoiled = bytearray(data)
        for at in rng.integers(128, 900, 5):
            spoiled[at] = rng.integers(0, 256)
        (tmp_path / "f").write_bytes(spoiled)
        read_header(tmp_path / "f", SLICE_TAGS)
