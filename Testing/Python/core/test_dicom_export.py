"""DICOM results, read back by readers of their own: frames by their positions with pydicom, the image with GDCM."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from core.dicom_writer import write_enhanced, write_series
from core.phantom import Phantom, grid, phantom
from scipy.spatial import cKDTree

from medconv import RESEARCH_USE_ONLY, cli, dicom_codes, dicom_export, dicom_report, l1_mask, volume_io
from medconv.batch.jobs import BatchJob, CaseOutcome, Status
from medconv.batch.one_case import Tools, run_job
from medconv.batch.settings import BatchSettings
from medconv.inference import LoadedModel
from medconv.types import ImageGeometry, InputRefused, L1Mask, MedConvError, MissingRequirement, UsageError

SHA256 = "ab" * 32
LEVEL = {
    "found_as": "label 31", "used_as": "L1", "decided_by": "label", "segmenter": "existing", "identity": "",
    "demonstration": False, "doubts": [], "levels": [],
}  # fmt: skip
DOCUMENT = {
    "status": "ok",
    "t_score_class": "osteopenia",
    "probabilities": {"normal": 0.123449, "osteopenia": 0.7, "osteoporosis": 0.176551},
    "prediction_set": ["osteopenia", "osteoporosis"],
    "adjustment": {"method": "log_prior", "tau1": 1.0, "tau2": 0.5},
    "attenuation": {"mean_hu": 123.44, "median_hu": 120.0, "sd_hu": 33.333, "voxels": 800, "volume_ml": 2.004},
    "l1": {"volume_ml": 41.5567, "center_ras_mm": [0, 0, 0], "touches_border": False},
    "level": LEVEL,
    "quality": [
        {"code": "one", "severity": "warning", "message": "Contrast agent: HU are higher than without."},
        {"code": "two", "severity": "info", "message": "Temperature τ₁ = 1.5 was chosen, −2.5 is a limit."},
    ],
    "model": {"name": "untrained", "sha256": SHA256, "trained_on": "nothing: random weights for a test"},
}
COARSE = grid((1.5, 1.5, 2.5), (156.0, 156.0, 110.0))  # 104 x 104: GDCM misreads bits of frames that end within a byte


def turned(*axis_degrees: tuple[str, float]) -> tuple[float, ...]:
    """Row-major direction after turning about the patient's axes."""
    matrix = np.eye(3)
    for axis, degrees in axis_degrees:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        turn = np.eye(3)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        matrix = turn @ matrix
    return tuple(matrix.ravel())


def around_origin(direction: tuple[float, ...]) -> ImageGeometry:
    """The coarse grid in another direction, with the vertebra in its middle."""
    middle = (np.array(COARSE.size_xyz) - 1) / 2 * COARSE.spacing_mm_xyz
    x, y, z = -np.reshape(direction, (3, 3)) @ middle
    return ImageGeometry(COARSE.size_xyz, COARSE.spacing_mm_xyz, (float(x), float(y), float(z)), direction)


GRIDS = {
    "head first": COARSE,
    "written from head to feet": around_origin((1, 0, 0, 0, 1, 0, 0, 0, -1)),
    "feet first": around_origin((-1, 0, 0, 0, 1, 0, 0, 0, -1)),
    "prone": around_origin((-1, 0, 0, 0, -1, 0, 0, 0, 1)),
    "oblique": around_origin(turned(("x", 14), ("z", -9), ("y", 4))),
    "sagittal": around_origin((0, 0, 1, 1, 0, 0, 0, 1, 0)),
}


class Series:
    """A phantom as a DICOM series, and what a reading of it gives."""

    def __init__(self, folder: Path, case: Phantom, **tags: object) -> None:
        self.case, self.folder = case, folder
        write_series(folder, case.ct, **tags)
        self.files = tuple(str(file) for file in sorted(folder.iterdir()))

    def mask(self) -> L1Mask:
        ct = volume_io.read_ct(self.folder)
        return l1_mask.from_labels(self.case.labels_zyx, self.case.ct.geometry, 31, ct.geometry)[0]

    def points_of_l1(self) -> np.ndarray:
        """Where L1's voxels lie in the patient, from the phantom's own grid."""
        return self.case.ct.geometry.index_to_lps(np.argwhere(self.case.labels_zyx)[:, ::-1])


def furthest_mm(points: np.ndarray, expected: np.ndarray) -> float:
    """The largest distance between two sets of points that belong together one to one; infinite if they don't."""
    distance, partner = cKDTree(expected).query(points)
    one_to_one = len(points) == len(expected) == len(set(partner.tolist()))
    return float(distance.max()) if one_to_one else float("inf")


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Series:
    """The coarse phantom; treat as read-only."""
    return Series(tmp_path_factory.mktemp("series"), phantom(COARSE), StudyDate="20210304", StudyTime="101112")


@pytest.fixture(scope="module")
def written(series: Series, tmp_path_factory) -> tuple[Any, Any]:
    """Segmentation and report of the coarse phantom, read with pydicom; treat as read-only."""
    out = tmp_path_factory.mktemp("out")
    names = dicom_export.write_dicom(out, series.mask(), DOCUMENT, series.files)
    assert names == ("l1_segmentation.dcm", "l1_report.dcm")
    assert {file.name for file in out.iterdir()} == set(names)
    return pydicom.dcmread(out / names[0]), pydicom.dcmread(out / names[1])


def points_of_frames(segmentation: Any) -> np.ndarray:
    """The segment's voxels in the patient, frame by frame from its own position and the bits of the pixel data."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    across, down = np.reshape([float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient], (2, 3))
    row_mm, column_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    count, rows, columns = int(segmentation.NumberOfFrames), int(segmentation.Rows), int(segmentation.Columns)
    bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8), bitorder="little")
    frames = bits[: count * rows * columns].reshape(count, rows, columns)
    points = []
    for plane, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array([float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient])
        row, column = np.nonzero(plane)
        points.append(position + np.outer(column * column_mm, across) + np.outer(row * row_mm, down))
    return np.concatenate(points)


def items(container: Any, name: str) -> list[Any]:
    """Every content item of that concept name, at any depth."""
    found = []
    for item in container.get("ContentSequence", ()):
        if item.ConceptNameCodeSequence[0].CodeMeaning == name:
            found.append(item)
        found += items(item, name)
    return found


def number(item: Any) -> tuple[float, str]:
    measured = item.MeasuredValueSequence[0]
    return float(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue


@pytest.mark.parametrize("name", GRIDS)
def test_every_voxel_of_l1_lies_where_the_mask_says_and_no_other(tmp_path: Path, name: str) -> None:
    series = Series(tmp_path / "ct", phantom(GRIDS[name]))
    dicom_export.write_dicom(tmp_path, series.mask(), DOCUMENT, series.files)
    segmentation = pydicom.dcmread(tmp_path / "l1_segmentation.dcm")
    expected = series.points_of_l1()
    assert furthest_mm(points_of_frames(segmentation), expected) < 1e-3  # the writer's four decimals

    image = sitk.ReadImage(str(tmp_path / "l1_segmentation.dcm"))  # GDCM
    voxels = np.argwhere(sitk.GetArrayViewFromImage(image))[:, ::-1].tolist()
    by_gdcm = [image.TransformIndexToPhysicalPoint(voxel) for voxel in voxels]
    assert furthest_mm(np.array(by_gdcm), expected) < 1e-3


@pytest.mark.parametrize("name", ["feet first", "oblique"])
def test_each_frame_names_the_slice_whose_pixels_it_marks(tmp_path: Path, name: str) -> None:
    series = Series(tmp_path / "ct", phantom(GRIDS[name]))
    dicom_export.write_dicom(tmp_path, series.mask(), DOCUMENT, series.files)
    segmentation = pydicom.dcmread(tmp_path / "l1_segmentation.dcm")
    by_uid = {slice_.SOPInstanceUID: slice_ for slice_ in map(pydicom.dcmread, series.files)}
    frames, hu = segmentation.pixel_array.astype(bool), []
    assert frames.any(axis=(1, 2)).all()  # only slices that hold L1
    assert len(frames) == len(np.unique(np.nonzero(series.case.labels_zyx)[0]))
    for frame, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        source = by_uid[groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert groups.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
        hu += (source.pixel_array.astype(int) - 1024)[frame].tolist()
    inside = series.case.ct.array_zyx[series.case.labels_zyx > 0]
    assert sorted(hu) == sorted(inside.tolist())


def test_slices_that_are_not_quite_even_keep_their_own_positions(tmp_path: Path) -> None:
    series = Series(tmp_path / "ct", phantom(COARSE))
    moved = {}
    for file in series.files:
        slice_ = pydicom.dcmread(file)
        x, y, z = (float(v) for v in slice_.ImagePositionPatient)
        z = z + 0.1 * np.sin(z)  # at most 0.2 mm of 2.5 between neighbours
        slice_.ImagePositionPatient = moved[str(slice_.SOPInstanceUID)] = [f"{v:.4f}" for v in (x, y, z)]
        slice_.save_as(file)
    dicom_export.write_dicom(tmp_path, series.mask(), DOCUMENT, series.files)
    for groups in pydicom.dcmread(tmp_path / "l1_segmentation.dcm").PerFrameFunctionalGroupsSequence:
        uid = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert [f"{v:.4f}" for v in groups.PlanePositionSequence[0].ImagePositionPatient] == moved[uid]


def test_a_mask_on_a_grid_that_was_cut_from_the_ct_lies_at_the_same_place(series: Series, tmp_path: Path) -> None:
    mask = series.mask()
    x, y, z = mask.start_xyz
    cut = L1Mask(mask.block_zyx, (2, 3, 1), mask.ct_geometry.cut((x - 2, y - 3, z - 1), (70, 60, 25)))
    for name, given in (("whole", mask), ("cut", cut)):
        (tmp_path / name).mkdir()
        dicom_export.write_dicom(tmp_path / name, given, DOCUMENT, series.files)
    whole, part = ((tmp_path / name / "l1_segmentation.dcm").read_bytes() for name in ("whole", "cut"))
    assert whole == part


def test_the_segment_says_what_it_is_and_what_made_it(written: tuple[Any, Any]) -> None:
    segmentation, _ = written
    segment = segmentation.SegmentSequence[0]
    assert len(segmentation.SegmentSequence) == 1
    assert segmentation.SegmentationType == "BINARY"
    kind, category = segment.SegmentedPropertyTypeCodeSequence[0], segment.SegmentedPropertyCategoryCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("66794005", "SCT", "L1 vertebra")
    assert category.CodeValue == "123037004"
    assert segment.SegmentAlgorithmType == "SEMIAUTOMATIC"  # a mask file: nobody knows how it was made
    assert segment.SegmentAlgorithmName == "Mask given as a file"
    assert "RESEARCH USE ONLY" in segmentation.SeriesDescription
    assert segmentation.ContentQualification == "RESEARCH"


@pytest.mark.parametrize(("vertebra", "code"), [("T12", "23215003"), ("L2", "14293000")])
def test_another_vertebra_that_was_measured_instead_is_named_so(
    series: Series, tmp_path: Path, vertebra: str, code: str
) -> None:
    level = LEVEL | {"used_as": vertebra, "segmenter": "totalsegmentator", "identity": "TotalSegmentator 2.18.0"}
    names = dicom_export.write_dicom(tmp_path, series.mask(), DOCUMENT | {"level": level}, series.files)
    assert names == (f"{vertebra.lower()}_segmentation.dcm", f"{vertebra.lower()}_report.dcm")
    segment = pydicom.dcmread(tmp_path / names[0]).SegmentSequence[0]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == code
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert "TotalSegmentator 2.18.0" in segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    report = pydicom.dcmread(tmp_path / names[1])
    assert {site.ConceptCodeSequence[0].CodeValue for site in items(report, "Finding Site")} == {code}


def test_the_report_has_every_figure_with_its_unit(written: tuple[Any, Any]) -> None:
    _, report = written
    attenuation = {
        item.ContentSequence[0].ConceptCodeSequence[0].CodeMeaning: number(item)
        for item in items(report, "Attenuation Coefficient")
    }
    assert attenuation == {
        "Mean": (123.4, "[hnsf'U]"), "Median": (120.0, "[hnsf'U]"), "Standard Deviation": (33.3, "[hnsf'U]")
    }  # fmt: skip
    assert [number(item) for item in items(report, "Volume")] == [(41.56, "ml"), (2.0, "ml")]
    probabilities = [number(items(report, f"Probability of {c}")[0]) for c in DOCUMENT["probabilities"]]
    assert probabilities == [(0.1234, "1"), (0.7, "1"), (0.1766, "1")]
    [told] = [i for i in items(report, "WHO T-score class estimated from CT") if i.ValueType == "CODE"]
    code = told.ConceptCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("osteopenia", "99MEDCONV")
    possible = [i.ConceptCodeSequence[0].CodeValue for i in items(report, "T-score classes that remain possible")]
    assert possible == ["osteopenia", "osteoporosis"]


def test_the_report_says_research_use_first_and_every_note_in_full(written: tuple[Any, Any]) -> None:
    _, report = written
    contained = [item for item in report.ContentSequence if item.RelationshipType == "CONTAINS"]
    assert contained[0].TextValue == RESEARCH_USE_ONLY
    assert contained[1].TextValue == (
        "Research result: Osteopenia (T-score between −2.5 and −1.0). Probabilities: normal 12.3%, osteopenia 70.0%, "
        "osteoporosis 17.7%. L1 trabecular attenuation: mean 123 HU, median 120 HU, SD 33 HU."
    )
    notes = [item.TextValue for item in items(report, "Note on how far to trust the result")]
    assert notes[0] == RESEARCH_USE_ONLY
    assert notes[1] == "L1: label 31 of the given mask."
    for note in DOCUMENT["quality"]:
        assert f"{note['severity']}: {note['message']}" in notes  # τ₁ and − survive
    parameters = [item.TextValue for item in items(report, "Algorithm Parameters")]
    assert f"weights SHA-256: {SHA256}" in parameters
    assert (report.PreliminaryFlag, report.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    assert "RESEARCH USE ONLY" in report.SeriesDescription


def test_the_report_is_shown_item_by_item_not_as_running_text(written: tuple[Any, Any]) -> None:
    def containers(item: Any) -> list[Any]:
        inner = [found for part in item.get("ContentSequence", ()) for found in containers(part)]
        return [item, *inner] if item.ValueType == "CONTAINER" else inner

    _, report = written
    found = containers(report)
    assert len(found) == 6
    assert {item.ContinuityOfContent for item in found} == {"SEPARATE"}


def test_the_report_refers_to_the_segment_and_to_slices_of_the_ct(series: Series, written: tuple[Any, Any]) -> None:
    segmentation, report = written
    [reference] = [item.ReferencedSOPSequence[0] for item in items(report, "Referenced Segment")]
    assert reference.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
    assert reference.ReferencedSegmentNumber == 1
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in series.files]
    [source] = items(report, "Source Series for Segmentation")
    assert {source.UID} == {header.SeriesInstanceUID for header in headers}
    marked = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    slices = {item.ReferencedSOPInstanceUID for item in marked}
    assert len(slices) == segmentation.NumberOfFrames
    assert slices < {header.SOPInstanceUID for header in headers}
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    named = {s.ReferencedSOPInstanceUID for e in evidence.ReferencedSeriesSequence for s in e.ReferencedSOPSequence}
    assert named == slices | {segmentation.SOPInstanceUID}


def test_what_the_standard_requires_is_there(series: Series, written: tuple[Any, Any]) -> None:
    source = pydicom.dcmread(series.files[0])
    always = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "InstanceNumber")
    of_one = {
        "SEG": ("FrameOfReferenceUID", "SeriesNumber", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber",
                "SoftwareVersions", "ImageType", "ContentLabel", "ContentDate", "ContentTime", "SegmentSequence",
                "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames",
                "DimensionOrganizationSequence", "DimensionIndexSequence", "Rows", "Columns", "PixelData",
                "BitsAllocated", "LossyImageCompression"),
        "SR": ("SeriesNumber", "ContentDate", "ContentTime", "CompletionFlag", "VerificationFlag", "ValueType",
               "ConceptNameCodeSequence", "ContentSequence", "CurrentRequestedProcedureEvidenceSequence"),
    }  # fmt: skip
    for made in written:
        for keyword in (*always, *of_one[made.Modality]):
            assert made.get(keyword) not in (None, "", []), keyword
        assert made.StudyInstanceUID == source.StudyInstanceUID
        assert made.SeriesInstanceUID != source.SeriesInstanceUID
        assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
        for uid in (made.SOPInstanceUID, made.SeriesInstanceUID):
            assert re.fullmatch(r"2\.25\.[1-9][0-9]{0,38}", uid)
    segmentation, report = written
    assert segmentation.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert segmentation.SeriesInstanceUID != report.SeriesInstanceUID  # two modalities


def test_the_same_answer_is_the_same_file_to_the_byte_and_another_answer_has_other_uids(
    series: Series, tmp_path: Path
) -> None:
    mask = series.mask()
    smaller = mask.block_zyx.copy()
    smaller[tuple(np.argwhere(smaller)[0])] = False
    noise = {"normal": 0.12344901, "osteopenia": 0.7, "osteoporosis": 0.17655099}
    variants = {
        "once": (mask, DOCUMENT),
        "again": (mask, DOCUMENT),
        "noise in the last digit": (mask, DOCUMENT | {"probabilities": noise}),
        "another class": (mask, DOCUMENT | {"t_score_class": "normal"}),
        "other weights": (mask, DOCUMENT | {"model": DOCUMENT["model"] | {"sha256": "cd" * 32}}),
        "another mask": (replace(mask, block_zyx=smaller), DOCUMENT),
    }  # fmt: skip
    made = {}
    for name, (given, document) in variants.items():
        (tmp_path / name).mkdir()
        files = dicom_export.write_dicom(tmp_path / name, given, document, tuple(reversed(series.files)))
        made[name] = [(tmp_path / name / file).read_bytes() for file in files]
    assert made["again"] == made["once"] == made["noise in the last digit"]
    reports = [pydicom.dcmread(tmp_path / name / "l1_report.dcm") for name in variants]
    assert len({report.SOPInstanceUID for report in reports}) == 4
    assert len({report.SeriesInstanceUID for report in reports}) == 4
    assert made["another class"][0] == made["once"][0]  # its segmentation is the same


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("name", ["head first", "written from head to feet", "oblique", "sagittal"])
def test_an_enhanced_ct_has_its_own_frames_referred_to(tmp_path: Path, name: str, is_reversed: bool) -> None:
    series, file = Series(tmp_path / "slices", phantom(GRIDS[name])), tmp_path / "ct.dcm"
    write_enhanced(file, series.folder, is_reversed=is_reversed)
    ct = volume_io.read_ct(file)
    mask, _ = l1_mask.from_labels(series.case.labels_zyx, series.case.ct.geometry, 31, ct.geometry)
    names = dicom_export.write_dicom(tmp_path, mask, DOCUMENT, dicom_export.enhanced_file(file))
    segmentation, report = (pydicom.dcmread(tmp_path / name) for name in names)
    assert furthest_mm(points_of_frames(segmentation), series.points_of_l1()) < 1e-3
    source = pydicom.dcmread(file)
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        [reference] = frame.DerivationImageSequence[0].SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        at = source.PerFrameFunctionalGroupsSequence[int(reference.ReferencedFrameNumber) - 1].PlanePositionSequence[0]
        assert at.ImagePositionPatient == frame.PlanePositionSequence[0].ImagePositionPatient
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    named = {s.ReferencedSOPInstanceUID for e in evidence.ReferencedSeriesSequence for s in e.ReferencedSOPSequence}
    assert named == {source.SOPInstanceUID, segmentation.SOPInstanceUID}


def test_patient_and_study_are_copied_and_nothing_else_about_a_person(tmp_path: Path) -> None:
    tags = {
        "SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg", "PatientID": "4711",
        "PatientBirthDate": "19500102", "PatientSex": "M", "StudyID": "S1", "AccessionNumber": "A1",
        "StudyDate": "20210304", "StudyTime": "101112", "OperatorsName": "Maier^A", "InstitutionName": "Hospital",
        "Manufacturer": "ACME", "ContentDate": "20210305", "ContentTime": "111213.5",
    }  # fmt: skip
    series = Series(tmp_path / "ct", phantom(COARSE), **tags)
    names = dicom_export.write_dicom(tmp_path, series.mask(), DOCUMENT, series.files)
    for name in names:
        made = pydicom.dcmread(tmp_path / name)
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
            assert str(made[keyword].value) == tags[keyword]
        assert str(made.ReferringPhysicianName) == ""  # the CT has none, and none is made up
        assert (made.ContentDate, made.ContentTime) == ("20210305", "111213.5")
        assert "InstanceCreationDate" not in made
        text = str(made)
        assert "Maier" not in text
        assert "Hospital" not in text
        assert "4711" not in name


def test_a_ct_without_any_date_gives_the_date_that_stands_for_none(tmp_path: Path) -> None:
    series = Series(tmp_path / "ct", phantom(COARSE))
    dicom_export.write_dicom(tmp_path, series.mask(), DOCUMENT, series.files)
    report = pydicom.dcmread(tmp_path / "l1_report.dcm")
    assert (report.ContentDate, report.StudyDate) == ("19000101", "")
    assert dicom_report.NO_DATE_NOTE in [i.TextValue for i in items(report, "Note on how far to trust the result")]


def test_odd_values_in_the_header_are_left_empty_not_fatal(tmp_path: Path) -> None:
    odd = {"PatientSex": "W", "PatientBirthDate": "00000000", "StudyTime": "99:99", "PatientAge": "sixty"}
    with pydicom.config.disable_value_validation():
        series = Series(tmp_path / "ct", phantom(COARSE), StudyDate="20210304", **odd)
        dicom_export.write_dicom(tmp_path, series.mask(), DOCUMENT, series.files)
    report = pydicom.dcmread(tmp_path / "l1_report.dcm")
    assert [report.PatientSex, report.PatientBirthDate, report.StudyTime] == ["", "", ""]
    assert report.StudyDate == "20210304"


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_a_series_without_its_uids_is_refused_from_its_first_header(tmp_path: Path, keyword: str) -> None:
    series = Series(tmp_path / "ct", phantom(grid((4, 4, 6))), **{keyword: ""})
    with pytest.raises(InputRefused) as refused:
        dicom_export.check_series(series.files)
    assert refused.value.code == "dicom_without_uids"


def test_the_files_of_another_ct_are_refused(series: Series, tmp_path: Path) -> None:
    x, y, z = COARSE.origin_lps_mm
    shifted = phantom(COARSE)
    shifted = Phantom(replace(shifted.ct, geometry=replace(COARSE, origin_lps_mm=(x + 0.7, y, z))), shifted.labels_zyx)
    other = Series(tmp_path / "ct", shifted)
    with pytest.raises(InputRefused) as refused:
        dicom_export.write_dicom(tmp_path, series.mask(), DOCUMENT, other.files)
    assert refused.value.code == "dicom_does_not_fit"
    assert not list(tmp_path.glob("*.dcm*"))


def test_if_the_report_fails_no_segmentation_is_left(series: Series, tmp_path: Path, monkeypatch) -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("a value that highdicom does not take")

    monkeypatch.setattr(dicom_report, "report", fail)
    with pytest.raises(InputRefused) as refused:
        dicom_export.write_dicom(tmp_path, series.mask(), DOCUMENT, series.files)
    assert refused.value.code == "dicom_header_unfit"
    assert list(tmp_path.iterdir()) == []


def test_without_highdicom_the_pip_line_is_told(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingRequirement, match="DICOM results need") as missing:
        dicom_export.check_request(tmp_path)
    assert 'pip install "bonedensity-medconv[batch]"' in missing.value.remedy


def test_the_vertebrae_have_the_same_codes_as_in_slicer() -> None:
    from BoneDensityMedConvLib.terminology import VERTEBRA_CODES

    assert {VERTEBRA_CODES[code]: code for code in dicom_codes.VERTEBRA_CODES.values()} == dicom_codes.VERTEBRA_CODES


def test_codes_of_our_own_fit_into_dicom() -> None:
    for name, meaning in dicom_codes.OWN_CODES.items():
        assert len(name) <= 16  # Code Value is a short string
        assert len(meaning) <= 64
        assert meaning.isascii()


@pytest.fixture
def predict(series: Series, only_untrained: Path, tmp_path: Path) -> Callable[..., Any]:
    """`predict(ct, "--dicom")` runs the command into tmp_path/out; returns its exit code."""
    labels = tmp_path / "labels.nii.gz"
    volume_io.write_image(labels, series.case.labels_zyx, series.case.ct.geometry)

    def run(ct: Path, *options: str) -> int:
        where = ["--mask", str(labels), "--label", "31", "--weights", "untrained", "--device", "cpu"]
        return cli.main(["predict", str(ct), *where, "--out", str(tmp_path / "out"), *options])

    return run


def test_predict_writes_dicom_if_asked_and_a_later_run_removes_it(series: Series, predict, tmp_path: Path) -> None:
    names = {"l1_segmentation.dcm", "l1_report.dcm"}
    assert predict(series.folder, "--dicom") == 0
    assert names < {file.name for file in (tmp_path / "out").iterdir()}
    segmentation = pydicom.dcmread(tmp_path / "out" / "l1_segmentation.dcm")
    assert furthest_mm(points_of_frames(segmentation), series.points_of_l1()) < 1e-3
    assert predict(series.folder) == 0
    assert not names & {file.name for file in (tmp_path / "out").iterdir()}


def test_predict_writes_dicom_of_an_enhanced_ct(series: Series, predict, tmp_path: Path) -> None:
    write_enhanced(tmp_path / "ct.dcm", series.folder)
    assert predict(tmp_path / "ct.dcm", "--dicom") == 0
    segmentation = pydicom.dcmread(tmp_path / "out" / "l1_segmentation.dcm")
    assert furthest_mm(points_of_frames(segmentation), series.points_of_l1()) < 1e-3


def test_predict_refuses_dicom_results_for_a_single_file(predict, series: Series, tmp_path: Path, capsys) -> None:
    ct = tmp_path / "ct.nii.gz"
    volume_io.write_image(ct, series.case.ct.array_zyx, series.case.ct.geometry)
    assert predict(ct, "--dicom") == UsageError.exit_code
    assert "--dicom needs a CT as a DICOM series" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name")
def test_predict_refuses_a_pipe_by_name_and_nobody_waits_for_it(predict, tmp_path: Path, monkeypatch, capsys) -> None:
    def opened(*_: Any, **__: Any) -> None:
        pytest.fail("the pipe was opened")

    os.mkfifo(tmp_path / "pipe.dcm")
    monkeypatch.setattr(pydicom, "dcmread", opened)
    assert predict(tmp_path / "pipe.dcm", "--dicom") == InputRefused.exit_code
    assert "pipe or a device" in capsys.readouterr().err


def deflated(whole: bytes) -> bytes:
    header = pydicom.dcmread(BytesIO(whole))
    header.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    file = BytesIO()
    header.save_as(file)
    return file.getvalue()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "no transfer syntax": lambda whole: whole.replace(b"\x02\0\x10\0UI", b"\x02\0\x10\0U\xff", 1),
    "another type of value": lambda whole: whole.replace(b"\x08\0\x16\0UI", b"\x08\0\x16\0FD", 1),
    "deflated and cut off": lambda whole: deflated(whole)[:600],
    "only its mark": lambda whole: whole[:132],
    "cut off in the header": lambda whole: whole[:340],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_with_dicoms_mark_is_refused_by_name(
    series: Series, predict, tmp_path: Path, capsys, how: str
) -> None:
    ct = tmp_path / "ct.dcm"
    write_enhanced(ct, series.folder)
    ct.write_bytes(DAMAGE[how](ct.read_bytes()))
    assert predict(ct, "--dicom") in (UsageError.exit_code, InputRefused.exit_code)
    printed = capsys.readouterr().err
    assert "ct.dcm is neither" in printed
    assert "Unexpected" not in printed


def test_in_a_batch_two_patients_with_the_same_pixels_get_results_of_their_own(
    series: Series, only_untrained: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.nii.gz"
    volume_io.write_image(labels, series.case.labels_zyx, series.case.ct.geometry)
    write_series(tmp_path / "twin", series.case.ct, PatientID="twin", StudyDate="20210304", StudyTime="101112")
    settings = BatchSettings(
        weights="untrained", adjustment={"method": "log_prior", "tau1": 1.0, "tau2": 0.5}, dicom=True
    )
    earlier: dict[str, CaseOutcome] = {}
    tools = Tools(settings, tmp_path / "out", LoadedModel.load("untrained", "cpu"), known=earlier.get)
    for name, folder in (("one", series.folder), ("two", tmp_path / "twin")):
        outcome = run_job(BatchJob(name, str(folder), mask=str(labels), label=31), tools)
        assert outcome.files == (f"cases/{name}/l1_report.dcm", f"cases/{name}/l1_segmentation.dcm")
        earlier[outcome.pixels] = outcome
    assert len(earlier) == 1  # the same pixels
    patients = [pydicom.dcmread(tmp_path / "out/cases" / name / "l1_report.dcm").PatientID for name in ("one", "two")]
    assert patients == ["phantom", "twin"]


def test_in_a_batch_a_series_that_can_not_carry_dicom_results_is_answered_with_a_note(
    series: Series, only_untrained: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.nii.gz"
    volume_io.write_image(labels, series.case.labels_zyx, series.case.ct.geometry)
    write_series(tmp_path / "ct", series.case.ct, FrameOfReferenceUID="")
    settings = BatchSettings(
        weights="untrained", adjustment={"method": "log_prior", "tau1": 1.0, "tau2": 0.5}, dicom=True
    )
    tools = Tools(settings, tmp_path / "out", LoadedModel.load("untrained", "cpu"))
    outcome = run_job(BatchJob("one", str(tmp_path / "ct"), mask=str(labels), label=31), tools)
    assert (outcome.status, outcome.files) == (Status.OK, ())
    assert "dicom_not_written" in {note["code"] for note in outcome.document["quality"]}


def test_every_error_has_a_next_step(tmp_path: Path) -> None:
    file = tmp_path / "ct.nii"
    file.touch()
    with pytest.raises(MedConvError) as told:
        dicom_export.check_request(file)
    assert told.value.remedy
