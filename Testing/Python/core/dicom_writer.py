"""Write a CT as a DICOM series with pydicom: an implementation of its own, apart from the reader under test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medconv.types import CTVolume


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
