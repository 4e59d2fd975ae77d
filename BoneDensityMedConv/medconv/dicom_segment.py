"""L1 as a DICOM Segmentation object (PS3.3 A.51): binary, one frame for every slice that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medconv import __version__, dicom_codes
from medconv.dicom_source import UTF_8, SourceSlices
from medconv.planes import OUTLINE_RGB
from medconv.segmenter import EXISTING, SPOKEN_NAMES

SERIES_DESCRIPTION = "RESEARCH USE ONLY: {} segmentation"
MANUFACTURER, PRODUCT = "SlicerBoneDensityMedConv contributors", "BoneDensityMedConv"
SERIES_NUMBER = 9101
SEGMENT = 1


def segmentation(
    source: SourceSlices, vertebra: str, level: Mapping[str, Any], weights_sha256: str, tracking_uid: str, uid: str
) -> Any:
    """The Segmentation object of a vertebra, as a highdicom dataset.

    level: of result.json: which segmenter found the vertebra. uid: stands for instance and series until they are named.
    """
    from highdicom import PixelMeasuresSequence, PlanePositionSequence
    from highdicom.seg import Segmentation

    date, time = source.moment
    measures = PixelMeasuresSequence(
        pixel_spacing=source.pixel_spacing_mm,
        slice_thickness=source.thickness_mm,
        spacing_between_slices=source.gap_mm,
    )
    positions = None
    if source.frame_positions_lps_mm is not None:  # by these highdicom finds the frames that are referred to
        positions = [PlanePositionSequence("PATIENT", position) for position in source.frame_positions_lps_mm]
    made = Segmentation(
        source_images=list(source.headers),
        pixel_array=source.planes,
        segmentation_type="BINARY",
        segment_descriptions=[_description(vertebra, level, tracking_uid)],
        series_instance_uid=uid,
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=PRODUCT,
        software_versions=__version__,
        device_serial_number=weights_sha256[:16] or "none",
        content_label="RESEARCH_ONLY",
        content_description=SERIES_DESCRIPTION.format(vertebra),
        series_description=SERIES_DESCRIPTION.format(vertebra),
        pixel_measures=measures,
        plane_positions=positions,
        content_qualification="RESEARCH",
        content_date=date,
        content_time=time,
        specific_character_set=UTF_8,
        omit_empty_frames=False,
    )
    made.SpecificCharacterSet = UTF_8
    return made


def _description(vertebra: str, level: Mapping[str, Any], tracking_uid: str) -> Any:
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    given = level["segmenter"] == EXISTING
    return SegmentDescription(
        segment_number=SEGMENT,
        segment_label=f"{vertebra} (research use only)",
        segmented_property_category=dicom_codes.dicom("anatomical_structure"),
        segmented_property_type=dicom_codes.vertebra(vertebra),
        # Nobody knows how a mask was made that a person chose as a file.
        algorithm_type="SEMIAUTOMATIC" if given else "AUTOMATIC",
        algorithm_identification=_algorithm(level, given),
        tracking_uid=tracking_uid,
        tracking_id=vertebra,
        display_color=CIELabColor.from_rgb(*OUTLINE_RGB),
    )


def _algorithm(level: Mapping[str, Any], given: bool) -> Any:
    from highdicom import AlgorithmIdentificationSequence

    name = "Mask given as a file" if given else SPOKEN_NAMES.get(level["segmenter"], level["segmenter"])
    parameters = {"found_as": str(level["found_as"]), "decided_by": str(level["decided_by"])}
    if level["identity"]:
        parameters["identity"] = str(level["identity"])
    family = "manual_processing" if given else "artificial_intelligence"
    return AlgorithmIdentificationSequence(
        name=name[:64], family=dicom_codes.dicom(family), version=__version__, parameters=parameters
    )
