"""Reading: any format and orientation, every unreadable input by name. DICOM files are written by pydicom."""

import os
import subprocess
import sys

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from core.dicom_writer import write_enhanced, write_series
from core.phantom import grid, phantom, reoriented, write

from medconv import dicom_series, input_paths
from medconv.dicom_tags import acquisition_from_tags
from medconv.grid import canonical, to_image
from medconv.hounsfield import check_hounsfield
from medconv.slices import check_slices
from medconv.types import Acquisition, CTVolume, ImageGeometry, InputRefused
from medconv.volume_io import SIMULATED_MARK, check_file, read_ct, read_labels


@pytest.fixture(scope="module")
def small():
    return phantom(grid((2.0, 2.0, 2.5), (160.0, 150.0, 80.0)))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_every_format_keeps_voxels_and_grid(small, tmp_path, suffix):
    path, _ = write(small, tmp_path, suffix)
    ct = read_ct(path)
    assert np.array_equal(ct.array_zyx, small.ct.array_zyx)
    assert ct.geometry.same_grid_as(small.ct.geometry)


@pytest.mark.parametrize("code", ["RAS", "LPS", "PIR", "ASL"])
def test_orientation_travels_with_the_geometry(small, tmp_path, code):
    path, _ = write(reoriented(small, code), tmp_path)
    ct = read_ct(path)
    hu, geometry = canonical(ct.array_zyx, ct.geometry)
    assert np.array_equal(hu, small.ct.array_zyx)
    assert geometry.same_grid_as(small.ct.geometry)


def test_paths_with_spaces_and_other_letters(small, tmp_path):
    folder = tmp_path / "Müller Žofia 脊椎"
    folder.mkdir()
    path, _ = write(small, folder)
    assert read_ct(path).geometry.size_xyz == small.ct.geometry.size_xyz


READ_EACH = """
import sys
from medconv.types import InputRefused
from medconv.volume_io import check_file, read_ct, read_labels, write_image
ct = read_ct(sys.argv[1])
for path in sys.argv[2:]:
    for read in (read_ct, check_file, read_labels, lambda path: write_image(path, ct.array_zyx, ct.geometry)):
        try:
            read(path)
            print("read")
        except InputRefused as refusal:
            print(refusal.code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="names of bytes that are no text exist on Linux alone")
def test_names_that_are_no_text_are_refused_where_simpleitk_would_end_the_process(small, tmp_path):
    path, _ = write(small, tmp_path)
    named = [tmp_path / name for name in ("ct_\udcff.nii.gz", "f\udcff/ct.nii.gz", "series\udcff")]  # the byte FF
    write_series(named[2], small.ct)
    named[1].parent.mkdir()
    for name in named[:2]:
        name.hardlink_to(path)
    done = subprocess.run([sys.executable, "-c", READ_EACH, path, *named], capture_output=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, [b"path_not_text"] * 12)


@pytest.mark.skipif(sys.platform != "linux", reason="names of bytes that are no text exist on Linux alone")
def test_a_slice_whose_name_is_no_text_is_refused_and_a_stray_file_beside_the_slices_is_not(small, tmp_path):
    series = tmp_path / "series"
    write_series(series, small.ct)
    stray = series / "\udcdcbersicht.txt"
    stray.write_text("no DICOM")
    assert read_ct(series).geometry.size_xyz == small.ct.geometry.size_xyz
    stray.unlink()
    (series / "IM0003").rename(series / "IM\udcff")
    with pytest.raises(InputRefused) as refused:
        read_ct(series)
    assert refused.value.code == "path_not_text"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name")
def test_what_is_no_file_is_refused_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "loop.nii.gz").symlink_to("loop.nii.gz")
    expected = {"pipe.nii.gz": "not_a_file", "loop.nii.gz": "file_missing", "a" * 300: "file_missing"}
    for name, code in expected.items():
        for read in (read_ct, read_labels):
            with pytest.raises(InputRefused) as refused:
                read(tmp_path / name)
            assert refused.value.code == code


@pytest.mark.parametrize(
    ("closed", "refused"),
    [(".Trashes", False), ("System Volume Information", False), ("lost+found", False), ("b", True)],
)
@pytest.mark.parametrize("has_series", [True, False])
def test_a_folder_that_may_not_be_listed_is_named_and_the_systems_own_are_passed_over(
    small, tmp_path, monkeypatch, closed, refused, has_series
):
    if has_series:
        write_series(tmp_path / "a", small.ct)
    (tmp_path / closed).mkdir()
    listed = os.scandir

    def scandir(path):  # root may list everything
        if os.fspath(path).endswith(closed):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(dicom_series.os, "scandir", scandir)
    if has_series and not refused:
        assert read_ct(tmp_path).geometry.size_xyz == small.ct.geometry.size_xyz
        return
    with pytest.raises(InputRefused) as found:
        read_ct(tmp_path)
    assert (found.value.code, found.value.details) == ("permission_denied", closed)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha", "ct.nii.gz"])
@pytest.mark.parametrize("code", ["LPS", "PIR"])
def test_a_single_volume_stored_as_4d_is_the_3d_one(small, tmp_path, name, code):
    turned = reoriented(small, code)
    for kind, read in {"ct": read_ct, "labels": read_labels}.items():
        values = turned.ct.array_zyx if kind == "ct" else turned.labels_zyx
        image = to_image(values, turned.ct.geometry)
        sitk.WriteImage(sitk.JoinSeries([image]), tmp_path / (kind + name))
        found = read(tmp_path / (kind + name))
        array, geometry = (found.array_zyx, found.geometry) if kind == "ct" else found[:2]
        assert np.array_equal(array, values)
        assert geometry.same_grid_as(turned.ct.geometry)
    assert check_file(tmp_path / f"ct{name}") == turned.ct.geometry.size_xyz


def test_a_slice_that_may_not_be_read_is_told_so_and_not_called_missing(small, tmp_path, monkeypatch):
    write_series(tmp_path / "a", small.ct)
    (tmp_path / "a" / "IM0003").write_bytes(b"")  # to Python's look as silent as a file without rights
    monkeypatch.setattr(input_paths.os, "access", lambda path, mode: os.fspath(path).endswith("a"))
    with pytest.raises(InputRefused) as refused:
        read_ct(tmp_path / "a")
    assert refused.value.code == "permission_denied"


def test_dicom_slices_are_sorted_by_position_and_rescaled(small, tmp_path):
    write_series(tmp_path / "series", small.ct, age="061Y", ContrastBolusAgent="Iomeprol", PatientSex="F")
    ct = read_ct(tmp_path / "series")
    assert np.array_equal(ct.array_zyx, small.ct.array_zyx)
    assert ct.geometry.same_grid_as(small.ct.geometry)
    assert ct.acquisition == Acquisition("CT", 120.0, 2.5, "B30f", "Iomeprol", 61, "F")


@pytest.mark.parametrize("code", ["LPS", "LPI", "PSR"])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_frames_of_an_enhanced_ct_lie_where_they_say_in_either_order(small, tmp_path, code, is_reversed):
    case = reoriented(small, code)
    write_series(tmp_path / "slices", case.ct)
    write_enhanced(tmp_path / "ct.dcm", tmp_path / "slices", is_reversed=is_reversed)
    ct = read_ct(tmp_path / "ct.dcm")
    assert min(ct.geometry.spacing_mm_xyz) > 0
    hu, geometry = canonical(ct.array_zyx, ct.geometry)
    assert np.array_equal(hu, small.ct.array_zyx)
    assert geometry.same_grid_as(small.ct.geometry)


def test_several_series_are_listed_and_one_can_be_chosen(small, tmp_path):
    first = write_series(tmp_path, small.ct, SeriesDescription="Bone")
    half = phantom(grid((2.0, 2.0, 5.0), (160.0, 150.0, 80.0)))
    second = write_series(tmp_path / "b", half.ct, SeriesDescription="Soft tissue")
    with pytest.raises(InputRefused) as caught:
        read_ct(tmp_path)
    assert caught.value.code == "several_series"
    for expected in (first, second, "Bone", "Soft tissue", "16 slices", "32 slices"):
        assert expected in caught.value.details
    assert "Bone" not in caught.value.remedy  # a description may hold a name; results keep only message and remedy
    assert read_ct(tmp_path, second).geometry.size_xyz[2] == 16
    with pytest.raises(InputRefused) as caught:
        read_ct(tmp_path, "1.2.3")
    assert caught.value.code == "series_missing"


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ({"skip": (10,)}, "slices_uneven", "slices are missing"),
        ({"tilt_mm_per_slice": 0.6}, "gantry_tilt", "13.5 degrees"),
        ({"skip": tuple(range(1, 32))}, "single_slice", "single slice"),
    ],
)
def test_a_broken_stack_is_refused_by_name(small, tmp_path, how, code, words):
    write_series(tmp_path / "s", small.ct, **how)
    with pytest.raises(InputRefused, match=words) as caught:
        read_ct(tmp_path / "s")
    assert caught.value.code == code


def test_mixed_phases_in_one_series_are_refused(small, tmp_path):
    uid = write_series(tmp_path / "s", small.ct)
    write_series(tmp_path / "s2", small.ct, SeriesInstanceUID=uid)
    for file in (tmp_path / "s2").iterdir():
        file.rename(tmp_path / "s" / f"second_{file.name}")
    with pytest.raises(InputRefused) as caught:
        read_ct(tmp_path / "s")
    assert caught.value.code == "slices_repeated"


def test_bad_files_each_get_their_own_code(small, tmp_path):
    def refused(path, code):
        with pytest.raises(InputRefused) as caught:
            read_ct(path)
        assert caught.value.code == code
        assert caught.value.remedy

    refused(tmp_path / "nothing.nii", "file_missing")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no_dicom")
    (tmp_path / "text.nii.gz").write_text("no image")
    refused(tmp_path / "text.nii.gz", "unreadable")
    for suffix, code in ((".nii", "file_cut_off"), (".nii.gz", "file_cut_off"), (".nrrd", "file_cut_off")):
        path, _ = write(small, tmp_path, suffix)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        refused(path, code)
    image = to_image(small.ct.array_zyx, small.ct.geometry)
    sitk.WriteImage(image[:, :, 3], str(tmp_path / "flat.nii"))
    refused(tmp_path / "flat.nii", "image_2d")
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(tmp_path / "time.nii"))
    refused(tmp_path / "time.nii", "image_4d")
    sitk.WriteImage(sitk.Compose([image, image, image]), str(tmp_path / "colour.nrrd"))
    refused(tmp_path / "colour.nrrd", "image_in_colour")
    write_series(tmp_path / "s", small.ct)
    refused(next((tmp_path / "s").iterdir()), "single_slice")


@pytest.mark.parametrize(("name", "refused"), [("ct.nii", "Name it ct.nii.gz."), ("mask.nii", "Name it mask.nii.gz.")])
def test_a_compressed_file_without_gz_in_its_name_is_told_so(small, tmp_path, name, refused):
    write(small, tmp_path, ".nii.gz")[0].rename(tmp_path / name)
    with pytest.raises(InputRefused, match="gzip-compressed") as caught:
        (read_ct if name == "ct.nii" else read_labels)(tmp_path / name)
    assert caught.value.remedy == refused


def test_a_simulated_ct_is_known_by_its_mark(small, tmp_path):
    image = to_image(small.ct.array_zyx, small.ct.geometry)
    image.SetMetaData("ITK_FileNotes", SIMULATED_MARK)  # ITK's name for NIfTI's `descrip`
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    assert read_ct(tmp_path / "a.nii.gz").is_simulated
    assert not read_ct(write(small, tmp_path)[0]).is_simulated


def test_float_labels_are_read_as_whole_numbers(small, tmp_path):
    image = sitk.Cast(to_image(small.labels_zyx, small.ct.geometry), sitk.sitkFloat32)
    sitk.WriteImage(image, str(tmp_path / "l.nii.gz"))
    labels, geometry, _owner = read_labels(tmp_path / "l.nii.gz")
    assert labels.dtype.kind == "i"
    assert np.array_equal(labels, small.labels_zyx)
    assert geometry.same_grid_as(small.ct.geometry)


def volume(array, **acquisition):
    array = np.asarray(array)
    return CTVolume(array, ImageGeometry(array.shape[::-1], (1.0, 1.0, 1.0), (0, 0, 0)), Acquisition(**acquisition))


def refusal_code(ct):
    with pytest.raises(InputRefused) as caught:
        check_hounsfield(ct)
    return caught.value.code


def test_what_is_not_a_ct_in_hounsfield_units_is_refused(small):
    hu = small.ct.array_zyx
    assert refusal_code(volume(hu, modality="MR")) == "not_ct"
    assert refusal_code(volume(hu + 1024)) == "not_hu"  # missing rescale
    assert refusal_code(volume((hu + 1000) / 2000.0)) == "not_hu"  # normalised
    assert refusal_code(volume(np.random.default_rng(0).integers(0, 255, hu.shape))) == "not_hu"
    assert refusal_code(volume(np.where(hu == 40, np.nan, hu.astype(float)))) == "not_hu"
    assert refusal_code(volume(hu.clip(-160, 240))) == "hu_clipped"


def test_acquisition_that_moves_hu_is_noted(small):
    def codes(**acquisition):
        return {n.code for n in check_hounsfield(volume(small.ct.array_zyx, **acquisition))}

    assert codes(modality="CT", kvp=120.0, kernel="B30f") == set()
    assert codes() == {"kvp_unknown"}
    assert codes(kvp=100.0, contrast_agent="Iohexol", kernel="Br64") == {
        "kvp_not_120",
        "contrast_agent",
        "sharp_kernel",
    }
    shifted = volume(np.where(small.ct.array_zyx == -1000, -900, small.ct.array_zyx), kvp=120.0)
    assert {n.code for n in check_hounsfield(shifted)} == {"air_not_minus_1000"}


def test_lung_is_not_mistaken_for_badly_calibrated_air(small):
    rng = np.random.default_rng(0)
    lung = np.where(small.ct.array_zyx == -1000, rng.normal(-800, 60, small.ct.array_zyx.shape), small.ct.array_zyx)
    assert [n.code for n in check_hounsfield(volume(lung.astype(np.int16), kvp=120.0))] == ["hu_scale_unchecked"]


@pytest.mark.parametrize(
    ("mm", "expected"), [(1.0, "fine"), (3.0, "fine"), (4.0, "warned"), (5.0, "warned"), (5.5, "refused")]
)
def test_slice_thickness(mm, expected):
    ct = phantom(grid((2.0, 2.0, mm), (60.0, 60.0, 60.0))).ct
    if expected == "refused":
        with pytest.raises(InputRefused) as caught:
            check_slices(ct)
        assert caught.value.code == "slices_too_thick"
    else:
        assert [n.code for n in check_slices(ct)] == (["thick_slices"] if expected == "warned" else [])


def read_refused(path):
    with pytest.raises(InputRefused) as caught:
        read_ct(path)
    return caught.value.code


def headers(folder):
    return {pydicom.dcmread(file).InstanceNumber: file for file in folder.iterdir()}


def altered(file, **tags):
    dataset = pydicom.dcmread(file)
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(file)


def test_slices_that_differ_in_pixel_size_or_lie_aside_are_refused(small, tmp_path):
    write_series(tmp_path / "a", small.ct)
    altered(headers(tmp_path / "a")[6], PixelSpacing=[1.0, 1.0])
    assert read_refused(tmp_path / "a") == "slices_differ"
    write_series(tmp_path / "b", small.ct)
    file = headers(tmp_path / "b")[6]
    x, y, z = pydicom.dcmread(file).ImagePositionPatient
    altered(file, ImagePositionPatient=[x + 40, y, z])
    assert read_refused(tmp_path / "b") == "slices_shifted"


def test_one_series_in_two_folders_is_one_series(small, tmp_path):
    write_series(tmp_path / "a", small.ct)
    (tmp_path / "b").mkdir()
    for number, file in headers(tmp_path / "a").items():
        if number % 2:
            file.rename(tmp_path / "b" / file.name)
    assert np.array_equal(read_ct(tmp_path).array_zyx, small.ct.array_zyx)


def test_copies_of_a_file_are_read_once(small, tmp_path):
    write_series(tmp_path / "a", small.ct)
    file = headers(tmp_path / "a")[4]
    (tmp_path / "a" / "copy").write_bytes(file.read_bytes())
    assert np.array_equal(read_ct(tmp_path / "a").array_zyx, small.ct.array_zyx)


def test_odd_tags_are_nothing_rather_than_a_crash(small, tmp_path):
    write_series(tmp_path / "a", small.ct, age="018M", ConvolutionKernel="B²", ContrastBolusAgent="NONE")
    acquisition = read_ct(tmp_path / "a").acquisition
    assert (acquisition.patient_age_years, acquisition.contrast_agent) == (1, None)
    for text in ("1e9999", "nan", "0", "-3", ""):
        assert acquisition_from_tags({"0018|0060": text}).kvp is None
    broken = acquisition_from_tags({"0018|1210": "B²", "0010|1010": "abcY"})
    assert check_hounsfield(volume(small.ct.array_zyx, kernel=broken.kernel, kvp=120.0)) == []
    write_series(tmp_path / "b", small.ct)
    altered(headers(tmp_path / "b")[3], ImagePositionPatient=[1.0, 2.0])
    assert read_refused(tmp_path / "b") == "position_missing"


def test_projections_are_refused_and_other_kinds_of_hu_noted(small, tmp_path):
    write_series(tmp_path / "a", small.ct, ImageType=["DERIVED", "SECONDARY", "MIP"])
    with pytest.raises(InputRefused) as caught:
        check_hounsfield(read_ct(tmp_path / "a"))
    assert caught.value.code == "not_original"
    monoenergetic = volume(small.ct.array_zyx, kvp=120.0, image_type=("DERIVED", "PRIMARY", "VMI"))
    assert [n.code for n in check_hounsfield(monoenergetic)] == ["not_conventional_hu"]


@pytest.mark.parametrize("change", [lambda hu: hu * 2, lambda hu: hu - 200, lambda hu: hu * 1.2])
def test_a_wrong_hu_scale_is_refused_by_its_air(small, change):
    noise = np.random.default_rng(0).normal(0, 10, small.ct.array_zyx.shape)
    assert refusal_code(volume(change(small.ct.array_zyx + noise), kvp=120.0)) == "not_hu"


def test_padding_outside_the_scanners_circle_is_not_air(small):
    hu = small.ct.array_zyx.copy()
    hu[:, :20] = -3024
    assert check_hounsfield(volume(hu, kvp=120.0)) == []


def test_what_is_no_label_map_is_refused(small, tmp_path):
    def refused(array):
        sitk.WriteImage(to_image(array, small.ct.geometry), str(tmp_path / "m.nii"))
        with pytest.raises(InputRefused) as caught:
            read_labels(tmp_path / "m.nii")
        return caught.value.code

    assert refused(small.ct.array_zyx) == "not_a_label_map"
    assert refused((small.labels_zyx * 0.99).astype(np.float32)) == "not_a_label_map"
