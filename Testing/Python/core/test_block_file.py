"""A mask on a whole CT's grid, written without the zeros around it: an ordinary file to every other reader."""

import gzip
import math
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from medconv.block_file import crc_after_zeros, write_block
from medconv.grid import geometry_of, to_image
from medconv.types import ImageGeometry

TILTED = (math.cos(0.2), -math.sin(0.2), 0.0, math.sin(0.2), math.cos(0.2), 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("start", [(0, 0, 0), (5, 7, 3), (21, 15, 24)])
def test_the_file_is_what_simpleitk_would_have_written(tmp_path, start):
    grid = ImageGeometry((31, 23, 29), (0.7, 0.8, 1.5), (-12.5, 30.25, -400.0), TILTED)
    block = np.random.default_rng(0).integers(0, 3, (5, 8, 10)).astype(np.uint8)
    block[0] = block[4] = 0  # empty slices within the block
    (x, y, z), whole = start, np.zeros(grid.shape_zyx, np.uint8)
    whole[z : z + 5, y : y + 8, x : x + 10] = block
    write_block(tmp_path / "a.nii.gz", block, start, grid)
    sitk.WriteImage(to_image(whole, grid), str(tmp_path / "b.nii"))
    # gzip checks the checksum and the length; the bytes are SimpleITK's, header and all.
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes()) == (tmp_path / "b.nii").read_bytes()
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(image), whole)
    assert geometry_of(image).same_grid_as(grid)


def test_an_empty_block_gives_an_empty_volume(tmp_path):
    write_block(
        tmp_path / "a.nii.gz", np.zeros((2, 2, 2), np.uint8), (1, 2, 3), ImageGeometry((9, 8, 7), (1, 1, 1), (0, 0, 0))
    )
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    assert found.shape == (7, 8, 9)
    assert not found.any()


def test_the_file_is_the_same_whenever_it_is_written(tmp_path):
    grid = ImageGeometry((9, 8, 7), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_block(tmp_path / name, np.ones((2, 2, 2), np.uint8), (1, 2, 3), grid)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("count", [0, 1, 7, 1000, 3_000_001])
def test_the_checksum_goes_on_over_zeros(count):
    assert crc_after_zeros(zlib.crc32(b"L1"), count) == zlib.crc32(b"L1" + bytes(count))
