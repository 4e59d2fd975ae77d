"""The inputs that a person chose: whether they suffice, what they hold, and how they are shown."""

from __future__ import annotations

from typing import Any

from BoneDensityMedConvLib import fingerprint as fingerprints
from BoneDensityMedConvLib import (
    level_choice,
    scene,
    segmenter_choice,
    segments,
    slice_views,
    spine_segments,
    terminology,
)
from medconv import l1_mask
from medconv.types import CTVolume, InputRefused, L1Mask, QualityNote, Severity

LEVEL_NOT_STATED = "Neither the segment's name nor its terminology says which vertebra it is: make sure that it is L1."


def find_l1(segmentation: Any) -> str:
    """The id of the segment that is L1, or ""."""
    return segments.find_l1(segmentation)


def names_l1(segmentation: Any) -> bool:
    """True if one segment is tagged as or named L1, so that nobody need be asked which it is."""
    segment = segmentation.GetSegmentation().GetSegment(find_l1(segmentation))
    return segment is not None and terminology.level_of(segment).is_l1


def segment_of(chosen: Any) -> Any:
    """The chosen `vtkSegment`, or None."""
    if chosen.segmentation is None or not chosen.segmentId:
        return None
    return chosen.segmentation.GetSegmentation().GetSegment(chosen.segmentId)


def ct_name(chosen: Any) -> str:
    """The chosen CT's name, or ""."""
    return (chosen.ct.GetName() or "") if chosen.ct is not None else ""


def segment_name(chosen: Any) -> str:
    """The chosen segment's name, or ""."""
    segment = segment_of(chosen)
    return (segment.GetName() or chosen.segmentId) if segment else ""


def simulated_note(ct: Any) -> str:
    """A sentence if the CT is simulated."""
    return "This CT is simulated; it shows no patient." if ct is not None and scene.is_simulated(ct) else ""


def what_is_missing(chosen: Any) -> str:
    """What must be chosen before an analysis, as a sentence; "" if nothing."""
    if chosen.ct is None:
        return "Choose a CT."
    if chosen.ct.IsA("vtkMRMLLabelMapVolumeNode"):
        return f"'{ct_name(chosen)}' is a label map; choose the CT."
    if segmenter_choice.is_automatic(chosen):
        return segmenter_choice.what_is_missing(chosen)
    if chosen.segmentation is None:
        return "Choose a segmentation that holds L1."
    segment = segment_of(chosen)
    if segment is None:
        return "Choose the segment of L1."
    level = terminology.level_of(segment)
    if level.is_other and not _is_decided(chosen, segment):
        stated = "is tagged as" if level.stated_by == "tag" else "is named like"
        return (
            f"The segment '{segment.GetName()}' {stated} vertebra {level.name}, not L1. Choose the segment of L1, "
            f"or correct its {'terminology' if level.stated_by == 'tag' else 'name'} if it is L1."
        )
    return ""


def _is_decided(chosen: Any, segment: Any) -> bool:
    """True if the reader said that this segment is to be measured, whatever it is called."""
    levels = level_choice.kept(chosen)
    return levels is not None and levels.decided and levels.target == spine_segments.found_as(segment)


def level_notes(chosen: Any) -> list[QualityNote]:
    """A warning if nothing says that the segment is L1."""
    segment = segment_of(chosen)
    if segment is None or terminology.level_of(segment).is_l1:
        return []
    return [QualityNote("level_not_stated", Severity.WARNING, LEVEL_NOT_STATED)]


def tag_if_named_l1(chosen: Any) -> None:
    """Give a segment that is L1 by its name the tag as well, so that a DICOM SEG made from it says so."""
    segment = segment_of(chosen)
    level = terminology.level_of(segment) if segment is not None else terminology.Level()
    if level.is_l1 and level.stated_by == "name":
        terminology.tag_as_l1(segment)


def read(chosen: Any) -> tuple[CTVolume, L1Mask]:
    """The CT and the mask on its grid. Raises InputRefused."""
    if chosen.ct is None or chosen.segmentation is None:
        raise InputRefused("not_ready", "There is no CT or no segmentation chosen.", what_is_missing(chosen))
    ct = scene.ct_volume(chosen.ct)
    return ct, scene.segment_mask(chosen.segmentation, chosen.segmentId, ct)


def fingerprint(ct: CTVolume, mask: L1Mask) -> str:
    """See `fingerprint.fingerprint`."""
    return fingerprints.fingerprint(ct, mask)


def still_same(chosen: Any, then: str) -> bool:
    """True if the chosen CT and segment hold what they held when the fingerprint was taken."""
    try:
        return fingerprints.same(fingerprints.fingerprint(*read(chosen)), then)
    except InputRefused:
        return False


def show(chosen: Any, mask: L1Mask, slice_logics: list[Any]) -> None:
    """Bone window, outline and light fill, and every slice view centred on the mask's centre of mass.

    The centre of mass lies in the vertebral body; the middle of the segment's box would lie behind it.
    """
    segments.show(chosen.segmentation, chosen.segmentId)
    slice_views.use_bone_window(chosen.ct)
    x, y, z = l1_mask.center_lps_mm(mask)
    slice_views.show_planes(slice_logics, chosen.ct, (-x, -y, z))
