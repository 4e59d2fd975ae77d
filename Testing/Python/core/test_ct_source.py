"""A CT read only around L1 gives the answer, notes, refusals and pictures of the whole CT; and little of it is read."""

from __future__ import annotations

import gzip
import locale
import math
import shutil
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from core.dicom_writer import write_series
from core.phantom import Phantom, grid, phantom, reoriented

from medconv import gzip_stream, l1_mask, neighbourhood, pipeline, planes, stored_voxels, volume_io
from medconv.case_reading import read_around_mask
from medconv.ct_source import CTSource
from medconv.dicom_slices import SeriesVoxels
from medconv.grid import even_sample, to_image
from medconv.hounsfield import check_hounsfield
from medconv.inference import LoadedModel
from medconv.planes import render_planes
from medconv.types import CTVolume, InputRefused, L1Mask

FORMATS = ("ct.nii", "ct.nii.gz", "raw.nrrd", "gzip.nrrd", "raw.mha", "zlib.mha", "dicom")
TILT = 0.25  # radians


def written(ct: CTVolume, folder: Path, name: str) -> Path:
    """The CT as a file of that name, or as a DICOM series in a folder."""
    path = folder / name
    if name == "dicom":
        write_series(path, ct)
    else:
        image = to_image(ct.array_zyx, ct.geometry)
        sitk.WriteImage(image, str(path), useCompression=not name.startswith("raw"))
    return path


def with_mask(case: Phantom, folder: Path) -> Path:
    path = folder / "mask.nii.gz"
    sitk.WriteImage(to_image(case.labels_zyx, case.ct.geometry), str(path))
    return path


def tilted(case: Phantom) -> Phantom:
    """The same voxels on axes that are turned about the patient's long axis."""
    c, s = math.cos(TILT), math.sin(TILT)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    x, y, z = (float(v) for v in turn @ case.ct.geometry.origin_lps_mm)
    direction = tuple((turn @ np.reshape(case.ct.geometry.direction, (3, 3))).ravel().tolist())
    geometry = replace(case.ct.geometry, origin_lps_mm=(x, y, z), direction=direction)
    return Phantom(replace(case.ct, geometry=geometry), case.labels_zyx)


@pytest.fixture(scope="module")
def long() -> Phantom:
    """A CT that goes far beyond L1 on all sides, with noise, and off centre."""
    made = phantom(grid((1.6, 1.5, 2.5), (240.0, 225.0, 400.0), (20.0, 15.0, 60.0)), noise_sd=15.0)
    return replace(made, ct=replace(made.ct, array_zyx=made.ct.array_zyx.clip(-1024)))  # as scanners store it


@pytest.fixture(scope="module")
def large(long: Phantom) -> Phantom:
    """The same in much more air: 52 MB."""
    margin = (40, 120, 130)  # z, y, x
    hu = np.pad(long.ct.array_zyx, [(n, n) for n in margin], constant_values=-1000)
    labels = np.pad(long.labels_zyx, [(n, n) for n in margin])
    x, y, z = (float(v) for v in long.ct.geometry.index_to_lps([-n for n in margin[::-1]]))
    geometry = replace(long.ct.geometry, size_xyz=hu.shape[::-1], origin_lps_mm=(x, y, z))
    return Phantom(replace(long.ct, array_zyx=hu, geometry=geometry), labels)


@pytest.fixture(scope="module")
def files(long: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    for name in FORMATS:
        written(long.ct, folder, name)
    with_mask(long, folder)
    return folder


def assert_same_case(whole: CTVolume, slab: CTVolume, mask: L1Mask) -> None:
    assert slab.array_zyx.size < 0.7 * whole.array_zyx.size
    expected, found = pipeline.prepare(whole, mask), pipeline.prepare(slab, mask)
    assert np.array_equal(found.ct.array_zyx, expected.ct.array_zyx)
    assert found.ct.array_zyx.dtype == expected.ct.array_zyx.dtype
    assert np.array_equal(found.mask_zyx, expected.mask_zyx)
    assert replace(found.ct, array_zyx=expected.ct.array_zyx) == expected.ct  # grid to the last bit
    assert (found.center_lps_mm, found.quality) == (expected.center_lps_mm, expected.quality)
    shown, there = render_planes(whole, expected), render_planes(slab, found)
    assert all(np.array_equal(there[name], picture) for name, picture in shown.items())


@pytest.mark.parametrize("name", FORMATS)
def test_whole_and_slab_give_the_same_case_and_pictures(long, files, name):
    source = volume_io.open_ct(files / name)
    whole = source.read()
    read = read_around_mask(source, files / "mask.nii.gz", 31)
    assert np.array_equal(whole.array_zyx, long.ct.array_zyx)
    assert source.geometry.same_grid_as(long.ct.geometry, 1e-3)
    assert np.array_equal(even_sample(read.ct), even_sample(whole))
    assert check_hounsfield(read.ct) == check_hounsfield(whole)
    assert_same_case(whole, read.ct, read.mask)


@pytest.mark.parametrize("how", ["PIR", "ASL", "tilted"])
def test_whole_and_slab_agree_on_any_axes(long, tmp_path, how):
    case = tilted(long) if how == "tilted" else reoriented(long, how)
    path, mask = written(case.ct, tmp_path, "ct.nii"), with_mask(case, tmp_path)
    read = read_around_mask(volume_io.open_ct(path), mask, None)
    assert_same_case(volume_io.read_ct(path), read.ct, read.mask)


def test_a_tilted_cts_pictures_miss_nothing_of_it(long, monkeypatch):
    case = tilted(long)
    found = render_planes(case.ct, pipeline.prepare(case.ct, case.mask))
    everything = ((0, 0, 0), case.ct.geometry.size_xyz)
    monkeypatch.setattr(planes, "in_view", lambda geometry, center: everything)
    expected = render_planes(case.ct, pipeline.prepare(case.ct, case.mask))
    assert all(np.array_equal(found[name], picture) for name, picture in expected.items())


def test_the_slab_holds_the_pictures_wherever_the_largest_piece_of_the_mask_lies(long, files):
    labels = long.labels_zyx.copy()
    labels[5:8, 30:40, 30:40] = 31  # stray voxels far below
    source = volume_io.open_ct(files / "ct.nii")
    mask, _ = l1_mask.from_labels(labels, source.geometry, 31, source.geometry)
    whole, slab = source.read(), source.read_around(mask)
    expected, found = pipeline.prepare(whole, mask), pipeline.prepare(slab, mask)
    assert found.quality == expected.quality
    assert "stray_voxels_removed" in {note.code for note in found.quality}
    shown, there = render_planes(whole, expected), render_planes(slab, found)
    assert all(np.array_equal(there[name], picture) for name, picture in shown.items())


def test_a_mask_on_another_grid_is_brought_onto_the_whole_cts(long, files, tmp_path):
    coarse = phantom(grid((2.0, 2.0, 3.0), (180.0, 180.0, 120.0)))
    mask = with_mask(coarse, tmp_path)
    source = volume_io.open_ct(files / "ct.nii")
    read = read_around_mask(source, mask, 31)
    labels, geometry, _owner = volume_io.read_labels(mask)
    expected, notes = l1_mask.from_labels(labels, geometry, 31, source.geometry)
    assert read.mask.start_xyz == expected.start_xyz
    assert np.array_equal(read.mask.block_zyx, expected.block_zyx)
    assert [n for n in read.notes if n.code != "level_not_checked"] == notes
    assert [note.code for note in notes] == ["mask_resampled"]
    assert_same_case(source.read(), read.ct, read.mask)


def test_the_border_is_that_of_the_whole_ct(tmp_path):
    cut = phantom(grid((2.0, 2.0, 2.5), (160.0, 160.0, 90.0), (0.0, 0.0, 32.0)))  # L1 reaches the lowest slice
    path, mask = written(cut.ct, tmp_path, "ct.nii"), with_mask(cut, tmp_path)
    read = read_around_mask(volume_io.open_ct(path), mask, 31)
    with pytest.raises(InputRefused) as caught:
        pipeline.prepare(read.ct, read.mask)
    assert caught.value.code == "l1_touches_border"


@pytest.mark.parametrize("change", [lambda hu: hu + 1024, lambda hu: hu.clip(-160, 240), lambda hu: hu - 200])
def test_a_wrong_scale_is_found_or_noted_as_in_the_whole_ct(long, tmp_path, change):
    def judged(ct):
        try:
            return [(note.code, note.message) for note in check_hounsfield(ct)]
        except InputRefused as refusal:
            return refusal.code, refusal.message

    ct = replace(long.ct, array_zyx=change(long.ct.array_zyx))
    path, mask = written(ct, tmp_path, "ct.nii.gz"), with_mask(long, tmp_path)
    read = read_around_mask(volume_io.open_ct(path), mask, 31)
    assert judged(read.ct) == judged(volume_io.read_ct(path))
    assert "not_hu" in str(judged(read.ct)) or "hu_clipped" in str(judged(read.ct)) or "air" in str(judged(read.ct))


def stored(path: Path, values: np.ndarray, geometry, slope=1.0, intercept=0.0, order="<") -> Path:
    """A NIfTI-1 file of any type, byte order and scaling, put together here."""
    code = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768}[values.dtype.str[1:]]
    header = bytearray(352)
    for form, at, what in (
        ("i4", 0, [348]), ("i2", 40, [3, *geometry.size_xyz, 1, 1, 1, 1]), ("i2", 70, [code, values.itemsize * 8]),
        ("f4", 76, [1, *geometry.spacing_mm_xyz, 0, 0, 0, 0]), ("f4", 108, [352, slope, intercept]), ("i2", 252, [1]),
        ("f4", 256, [0, 0, 1, *geometry.origin_lps_mm]),
    ):  # fmt: skip
        data = np.array(what, order + form).tobytes()
        header[at : at + len(data)] = data
    header[344:348] = b"n+1\0"
    data = bytes(header) + values.astype(values.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


KINDS = [
    ("i2", 1.0, 0.0, "<"), ("i2", 1.0, 0.0, ">"), ("u2", 1.0, -1024.0, "<"), ("i2", 0.5, -3.0, "<"),
    ("u1", 9.0, -1000.0, "<"), ("i4", 1.0, 0.0, ">"), ("f4", 1.0, 0.0, "<"), ("f4", 2.0, 0.25, ">"),
    ("f8", 1.0, 0.0, "<"), ("i1", 8.0, 0.0, "<"), ("u4", 1.0, 0.0, "<"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "slope", "intercept", "order"), KINDS)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_type_byte_order_and_scale_is_read_as_simpleitk_reads_it(tmp_path, kind, slope, intercept, order, suffix):
    geometry = grid((1.5, 1.5, 2.0), (30.0, 24.0, 18.0))
    values = np.random.default_rng(1).integers(0, 120, geometry.shape_zyx).astype(kind)
    path = stored(tmp_path / f"ct{suffix}", values, geometry, slope, intercept, order)
    expected = sitk.ReadImage(str(path))
    source = volume_io.open_ct(path)
    assert isinstance(source.voxels, stored_voxels.StoredVoxels), "it was left to SimpleITK"
    found = source.read()
    assert found.array_zyx.dtype == sitk.GetArrayViewFromImage(expected).dtype == source.voxels.dtype
    assert np.array_equal(found.array_zyx, sitk.GetArrayFromImage(expected))
    assert found.geometry.size_xyz == expected.GetSize()


@pytest.mark.parametrize("offset", [0.0, -1.0, 100.0, float("nan")])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_that_are_said_to_begin_in_the_header_are_never_shifted(tmp_path, offset, suffix):
    geometry = grid((1.5, 1.5, 2.0), (30.0, 24.0, 18.0))
    values = np.random.default_rng(1).integers(-1000, 1200, geometry.shape_zyx).astype("i2")
    whole = stored(tmp_path / "whole.nii", values, geometry).read_bytes()
    data = bytearray(whole[:348] + whole[352:])
    data[108:112] = np.float32(offset).tobytes()
    path = tmp_path / f"ct{suffix}"
    path.write_bytes(gzip.compress(bytes(data)) if suffix == ".nii.gz" else bytes(data))
    try:
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError:
        with pytest.raises(InputRefused):
            volume_io.read_ct(path)
        return
    assert np.array_equal(volume_io.read_ct(path).array_zyx, expected)


def meta_image(path: Path, values: np.ndarray, true: str, order: str, squeeze: bool) -> Path:
    """A MetaImage whose voxels are in a file of their own, put together here."""
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if squeeze else data
    (path.parent / "voxels.raw").write_bytes(data)
    lines = [
        "ObjectType = Image", "NDims = 3", f"BinaryData = {true}",
        f"BinaryDataByteOrderMSB = {true if order == '>' else 'F'}", "ElementSpacing = 1.5 1.5 2",
        f"DimSize = {' '.join(map(str, values.shape[::-1]))}", "ElementType = MET_SHORT",
        *([f"CompressedData = {true}", f"CompressedDataSize = {len(data)}"] if squeeze else []),
        "ElementDataFile = voxels.raw",
    ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("true", ["True", "true", "T", "1"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("squeeze", [False, True])
def test_a_meta_image_says_true_in_several_ways(tmp_path, true, order, squeeze):
    values = np.random.default_rng(1).integers(-1000, 1200, (9, 16, 20)).astype("i2")
    source = volume_io.open_ct(meta_image(tmp_path / "ct.mhd", values, true, order, squeeze))
    assert isinstance(source.voxels, stored_voxels.StoredVoxels), "it was left to SimpleITK"
    assert np.array_equal(source.read().array_zyx, values)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "ct.mhd"))), values)


@pytest.mark.parametrize("squeeze", [False, True])
def test_a_meta_image_whose_voxels_are_cut_off_is_refused(tmp_path, squeeze):
    values = np.random.default_rng(1).integers(-1000, 1200, (9, 16, 20)).astype("i2")
    path = meta_image(tmp_path / "ct.mhd", values, "True", "<", squeeze)
    (tmp_path / "voxels.raw").write_bytes((tmp_path / "voxels.raw").read_bytes()[:-100])
    with pytest.raises(InputRefused) as refused:  # SimpleITK fills what is missing with whatever the memory holds
        volume_io.read_ct(path)
    assert refused.value.code == "file_cut_off"


def test_what_stands_behind_a_compressed_file_does_not_make_it_cut_off(tmp_path):
    geometry = grid((1.5, 1.5, 2.0), (30.0, 24.0, 18.0))
    values = np.random.default_rng(1).integers(-1000, 1200, geometry.shape_zyx).astype("i2")
    path = stored(tmp_path / "ct.nii.gz", values, geometry)
    path.write_bytes(path.read_bytes() + b"behind")
    assert np.array_equal(volume_io.read_ct(path).array_zyx, values)


@pytest.mark.parametrize("kind", ["i2", "f4"])
def test_an_intercept_without_a_slope_is_left_to_simpleitk(tmp_path, kind):
    geometry = grid((1.5, 1.5, 2.0), (30.0, 24.0, 18.0))
    values = np.random.default_rng(1).integers(0, 120, geometry.shape_zyx).astype(kind)
    path = stored(tmp_path / "ct.nii", values, geometry, 0.0, -1024.0)
    assert np.array_equal(volume_io.read_ct(path).array_zyx, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def test_what_has_no_usual_layout_is_left_to_simpleitk(long, files, tmp_path):
    image = to_image(long.ct.array_zyx, long.ct.geometry)
    before = locale.setlocale(locale.LC_ALL)
    for name in ("ct.nhdr", "ct.vtk"):
        sitk.WriteImage(image, str(tmp_path / name))
        read = read_around_mask(volume_io.open_ct(tmp_path / name), files / "mask.nii.gz", 31)
        assert_same_case(volume_io.read_ct(tmp_path / name), read.ct, read.mask)
    assert locale.setlocale(locale.LC_ALL) == before, "text would be ASCII from here on"


def test_a_compressed_file_beside_the_uncompressed_one_keeps_its_own_voxels(tmp_path):
    # SimpleITK takes the voxels of ct.nii where ct.nii.gz was asked for and both are there.
    geometry = grid((2.0, 2.0, 2.0), (40.0, 30.0, 20.0))
    one, other = (np.full(geometry.shape_zyx, value, np.int16) for value in (1, 2))
    stored(tmp_path / "ct.nii", one, geometry)
    stored(tmp_path / "ct.nii.gz", other, geometry)
    assert (volume_io.read_ct(tmp_path / "ct.nii.gz").array_zyx == 2).all()
    assert (volume_io.read_ct(tmp_path / "ct.nii").array_zyx == 1).all()


def refusal(path: Path, mask: Path) -> str:
    with pytest.raises(InputRefused) as caught:
        read_around_mask(volume_io.open_ct(path), mask, 31)
    assert caught.value.remedy
    return caught.value.code


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "dicom"])
def test_a_file_that_ends_behind_the_slab_is_refused_all_the_same(files, tmp_path, name):
    shutil.copy(files / name, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-1000])
    assert refusal(tmp_path / name, files / "mask.nii.gz") == "file_cut_off"


@pytest.mark.parametrize("name", ["ct.nii.gz", "gzip.nrrd", "zlib.mha"])
def test_a_file_that_lacks_only_its_checksum_is_refused(files, tmp_path, name):
    (tmp_path / name).write_bytes((files / name).read_bytes()[:-2])
    assert refusal(tmp_path / name, files / "mask.nii.gz") == "file_cut_off"


@pytest.mark.parametrize("name", ["ct.nii.gz", "gzip.nrrd", "zlib.mha"])
def test_a_wrong_checksum_is_refused(files, tmp_path, name):
    data = bytearray((files / name).read_bytes())
    data[-8 if name != "zlib.mha" else -4] ^= 1  # gzip: CRC-32 before the length; zlib: Adler-32 at the end
    (tmp_path / name).write_bytes(data)
    assert refusal(tmp_path / name, files / "mask.nii.gz") == "unreadable"


def test_a_slice_far_from_l1_that_is_cut_off_is_refused(files, tmp_path):
    shutil.copytree(files / "dicom", tmp_path / "dicom")
    source = volume_io.open_ct(tmp_path / "dicom")
    far = Path(source.files[1])  # neither in the slab nor in the sample
    far.write_bytes(far.read_bytes()[:-10])
    assert refusal(tmp_path / "dicom", files / "mask.nii.gz") == "slices_uneven"  # the search leaves such a file out
    known = volume_io.open_ct(tmp_path / "dicom", files=source.files)
    with pytest.raises(InputRefused) as caught:
        read_around_mask(known, files / "mask.nii.gz", 31)
    assert caught.value.code == "unreadable"


def test_only_the_files_that_are_needed_are_decoded(files, monkeypatch):
    decoded = []
    once = SeriesVoxels._slice
    monkeypatch.setattr(SeriesVoxels, "_slice", lambda self, z: decoded.append(z) or once(self, z))
    source = volume_io.open_ct(files / "dicom")
    read = read_around_mask(source, files / "mask.nii.gz", 31)
    (_, _, z), (_, _, depth) = neighbourhood.needed(read.mask)
    step = round((np.prod(source.geometry.size_xyz) / 500_000) ** (1 / 3))
    assert sorted(decoded) == sorted({*range(z, z + depth), *range(0, 160, step)})
    assert len(decoded) < 0.75 * len(source.files)


def test_a_compressed_file_is_decompressed_once(files, monkeypatch):
    counted = []
    once = gzip_stream.pieces

    def counting(path, offset=0):
        for piece in once(path, offset):
            counted.append((path.name, len(piece)))
            yield piece

    monkeypatch.setattr(stored_voxels, "pieces", counting)
    source = volume_io.open_ct(files / "ct.nii.gz")
    assert counted == [], "headers alone decompress no voxels"
    read_around_mask(source, files / "mask.nii.gz", 31)
    voxels = int(np.prod(source.geometry.size_xyz))
    assert sum(size for name, size in counted if name == "ct.nii.gz") == 352 + 2 * voxels
    assert sum(size for name, size in counted if name == "mask.nii.gz") == 352 + voxels


def test_pythons_own_zlib_gives_the_same(files, monkeypatch):
    expected = read_around_mask(volume_io.open_ct(files / "ct.nii.gz"), files / "mask.nii.gz", 31)
    monkeypatch.setattr(gzip_stream, "_engine", lambda: zlib)
    found = read_around_mask(volume_io.open_ct(files / "ct.nii.gz"), files / "mask.nii.gz", 31)
    assert np.array_equal(found.ct.array_zyx, expected.ct.array_zyx)
    assert np.array_equal(found.mask.block_zyx, expected.mask.block_zyx)


def test_gzip_members_in_a_row_are_one_file(long, files, tmp_path):
    data = gzip.decompress((files / "ct.nii.gz").read_bytes())
    third = len(data) // 3
    parts = [data[:third], data[third : 2 * third], data[2 * third :]]
    (tmp_path / "ct.nii.gz").write_bytes(b"".join(map(gzip.compress, parts)) + bytes(512))
    assert np.array_equal(volume_io.read_ct(tmp_path / "ct.nii.gz").array_zyx, long.ct.array_zyx)


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz", "gzip.nrrd", "raw.mha", "dicom"])
def test_reading_around_l1_never_holds_the_whole_ct(large, tmp_path, name):
    source = volume_io.open_ct(written(large.ct, tmp_path, name))
    mask, (_, size) = with_mask(large, tmp_path), neighbourhood.needed(large.mask)
    tracemalloc.start()
    try:
        read = read_around_mask(source, mask, 31)
        pipeline.prepare(read.ct, read.mask)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    itemsize = read.ct.array_zyx.dtype.itemsize
    assert read.ct.array_zyx.dtype.kind == "i"
    assert read.ct.array_zyx.shape == tuple(size[::-1])
    assert read.ct.array_zyx.nbytes < 0.1 * large.ct.array_zyx.nbytes
    # The slab, the sample and its check as float32, some slices and pieces: a fifth of the CT, or 12 MB of 52.
    assert peak < read.ct.array_zyx.nbytes + 500_000 * (itemsize + 8) + 24 * itemsize * size[0] * size[1] + 6_000_000
    assert peak < 0.4 * large.ct.array_zyx.nbytes


@pytest.mark.parametrize("kind", ["u1", "i4", "f4"])
def test_a_label_is_found_without_the_label_map_in_memory(large, tmp_path, kind):
    path = stored(tmp_path / "mask.nii.gz", large.labels_zyx.astype(kind), large.ct.geometry)
    source = volume_io.open_labels(path)
    tracemalloc.start()
    try:
        mask, _ = l1_mask.from_slices(source.slices, large.ct.geometry, 31, large.ct.geometry)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert mask.start_xyz == large.mask.start_xyz
    assert np.array_equal(mask.block_zyx, large.mask.block_zyx)
    assert peak < 0.3 * large.labels_zyx.size


def test_a_mask_on_another_grid_is_no_mask_for_the_slab(long, files):
    other = phantom(grid((2.0, 2.0, 2.5))).mask
    with pytest.raises(ValueError, match="grid"):
        volume_io.open_ct(files / "ct.nii").read_around(other)


def real_files(real_case, name: str) -> tuple[Path, Path]:
    folder = real_case(name)
    return folder / "example_ct.nii.gz", folder / "totalseg.nii.gz"


def test_a_real_ct_gives_the_same_answer_whole_and_around_l1(real_case):
    ct_path, mask_path = real_files(real_case, "abdomen_3mm_l1_complete")
    model = LoadedModel.load(None, "cpu")
    source: CTSource = volume_io.open_ct(ct_path)
    read = read_around_mask(source, mask_path, 31)
    whole = source.read()
    assert np.array_equal(whole.array_zyx, sitk.GetArrayFromImage(sitk.ReadImage(str(ct_path))))
    expected, found = pipeline.predict(whole, read.mask, model), pipeline.predict(read.ct, read.mask, model)
    assert found.logits == expected.logits
    assert (found.attenuation, found.quality) == (expected.attenuation, expected.quality)
    shown, there = render_planes(whole, expected.case), render_planes(read.ct, found.case)
    assert all(np.array_equal(there[name], picture) for name, picture in shown.items())


def test_a_real_dicom_series_is_read_as_simpleitk_reads_it(real_case):
    folder = real_case("dicom_thorax_l1_absent")
    source = volume_io.open_ct(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(source.files)
    image = reader.Execute()
    assert np.array_equal(source.read().array_zyx, sitk.GetArrayFromImage(image))
    assert source.geometry.size_xyz == image.GetSize()
    assert source.geometry.spacing_mm_xyz == image.GetSpacing()
    assert source.geometry.origin_lps_mm == image.GetOrigin()
    assert source.geometry.direction == image.GetDirection()
    assert source.voxels.doubtful == frozenset(), "JPEG 2000 files are known to be whole from their last bytes"  # type: ignore[attr-defined]


def test_a_real_l1_that_the_ct_cuts_is_refused_without_the_whole_ct(real_case):
    folder = real_case("aorta_1.5mm_l1_truncated")
    mask = next(path for path in sorted(folder.rglob("*.nii.gz")) if "T12" in path.name)
    read = read_around_mask(volume_io.open_ct(folder / "ct_cropped.nii.gz"), mask, None)
    whole = volume_io.read_ct(folder / "ct_cropped.nii.gz")

    def judged(ct: CTVolume) -> tuple[str, str]:
        try:
            return "", str(pipeline.prepare(ct, read.mask).quality)
        except InputRefused as refusal:
            return refusal.code, refusal.message

    assert judged(read.ct) == judged(whole)
