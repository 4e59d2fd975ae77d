"""Write a CT as a DICOM series with pydicom: an implementation of its own, apart from the reader under test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from medconv.types import CTVolume

SHARED_TAGS = (
    "PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "Rows",
    "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation",
)  # fmt: skip


def write_series(
    folder: Path,
    ct: CTVolume,
    *,
    skip: tuple[int, ...] = (),
    tilt_mm_per_slice: float = 0.0,
    with_rescale: bool = True,
    modality: str = "CT",
    age: str | None = None,
    kvp: str = "120",
    shuffle_seed: int | None = 0,
    **tags: object,
) -> str:
    """One file a slice, file names in random order; returns the series UID. Stored as HU + 1024 unsigned."""
    folder.mkdir(parents=True, exist_ok=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    names = np.random.default_rng(shuffle_seed).permutation(len(ct.array_zyx))
    direction = np.reshape(ct.geometry.direction, (3, 3))
    for k, plane in enumerate(ct.array_zyx):
        if k in skip:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
        d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        d.SeriesInstanceUID, d.StudyInstanceUID, d.FrameOfReferenceUID = series, study, frame
        d.Modality, d.PatientName, d.PatientID = modality, "Phantom^Test", "phantom"
        d.KVP, d.SliceThickness, d.ConvolutionKernel = kvp, ct.geometry.spacing_mm_xyz[2], "B30f"
        if age:
            d.PatientAge = age
        position = ct.geometry.index_to_lps((0, 0, k)) + np.array([0, tilt_mm_per_slice * k, 0])
        d.ImagePositionPatient = [f"{v:.4f}" for v in position]
        d.ImageOrientationPatient = [f"{v:.6f}" for v in (*direction[:, 0], *direction[:, 1])]
        d.PixelSpacing = [ct.geometry.spacing_mm_xyz[1], ct.geometry.spacing_mm_xyz[0]]
        d.InstanceNumber = k + 1
        d.Rows, d.Columns = plane.shape
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
        if with_rescale:
            d.RescaleIntercept, d.RescaleSlope = -1024, 1
        for name, value in tags.items():
            setattr(d, name, value)
        d.PixelData = (plane.astype(np.int32) + 1024).clip(0).astype("<u2").tobytes()
        d.save_as(folder / f"IM{names[k]:04d}", enforce_file_format=True)
    return str(series)


def write_enhanced(file: Path, series: Path, *, is_reversed: bool = False, **tags: object) -> None:
    """The slices of a folder of `write_series` as the frames of one enhanced CT (PS3.3 A.38)."""
    slices = sorted(map(dcmread, series.iterdir()), key=lambda one: int(one.InstanceNumber), reverse=is_reversed)
    first = slices[0]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = EnhancedCTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = EnhancedCTImageStorage, meta.MediaStorageSOPInstanceUID
    for keyword in SHARED_TAGS:
        setattr(d, keyword, first[keyword].value)
    d.ImageType, d.NumberOfFrames = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], len(slices)
    shared = {
        "PixelMeasuresSequence": _item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness),
        "PlaneOrientationSequence": _item(ImageOrientationPatient=first.ImageOrientationPatient),
        "PixelValueTransformationSequence": _item(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU"),
    }
    d.SharedFunctionalGroupsSequence = _item(**shared)
    d.PerFrameFunctionalGroupsSequence = Sequence()
    for number, one in enumerate(slices, 1):
        at, content = _item(ImagePositionPatient=one.ImagePositionPatient), _item(DimensionIndexValues=[number])
        d.PerFrameFunctionalGroupsSequence += _item(PlanePositionSequence=at, FrameContentSequence=content)
    organization = generate_uid()
    d.DimensionOrganizationSequence = _item(DimensionOrganizationUID=organization)
    d.DimensionIndexSequence = _item(
        DimensionOrganizationUID=organization, DimensionIndexPointer=0x00200032, FunctionalGroupPointer=0x00209113
    )
    for name, value in tags.items():
        setattr(d, name, value)
    d.PixelData = b"".join(one.PixelData for one in slices)
    d.save_as(file, enforce_file_format=True)


def _item(**values: object) -> Sequence:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return Sequence([made])
