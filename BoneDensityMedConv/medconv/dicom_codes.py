"""The codes of DICOM results: SNOMED CT, DICOM and UCUM where they exist, a scheme of our own where they don't.

Sources: DICOM PS3.16 (CID 7464, 7462, 82), SNOMED CT as in TotalSegmentator's own mapping. The WHO class has codes of
our own on purpose: SNOMED's are of diagnoses, and a research result must not be found as one in an archive.
"""

from __future__ import annotations

from typing import Any

OWN_SCHEME = "99MEDCONV"
# CID 7150's kind of codes; the same as in BoneDensityMedConvLib.terminology (a test compares them).
VERTEBRA_CODES = {"T12": "23215003", "L1": "66794005", "L2": "14293000"}
OWN_CODES = {
    "trabecular_core": "Trabecular core of the vertebral body",
    "t_score_class": "WHO T-score class estimated from CT",
    "prediction_set": "T-score classes that remain possible",
    "normal": "Normal (T-score -1.0 or above)",
    "osteopenia": "Osteopenia (T-score between -2.5 and -1.0)",
    "osteoporosis": "Osteoporosis (T-score -2.5 or below)",
    "p_normal": "Probability of normal",
    "p_osteopenia": "Probability of osteopenia",
    "p_osteoporosis": "Probability of osteoporosis",
    "quality_note": "Note on how far to trust the result",
    "research_use": "Research use only",
}


def vertebra(name: str) -> Any:
    """T12, L1 or L2."""
    return _concept(VERTEBRA_CODES[name], "SCT", f"{name} vertebra")


def own(name: str) -> Any:
    """A concept of our own, by its name in `OWN_CODES`."""
    return _concept(name, OWN_SCHEME, OWN_CODES[name])


def dicom(keyword: str) -> Any:
    """A concept of DICOM, SNOMED CT, UCUM or UMLS, by a plain name."""
    return _concept(*_KNOWN[keyword])


_KNOWN = {
    "anatomical_structure": ("123037004", "SCT", "Anatomical Structure"),
    "volume": ("118565006", "SCT", "Volume"),
    "attenuation": ("112031", "DCM", "Attenuation Coefficient"),
    "mean": ("373098007", "SCT", "Mean"),
    "median": ("373099004", "SCT", "Median"),
    "sd": ("386136009", "SCT", "Standard Deviation"),
    "hu": ("[hnsf'U]", "UCUM", "Hounsfield unit"),
    "ml": ("ml", "UCUM", "milliliter"),
    "no_units": ("1", "UCUM", "no units"),
    "ct": ("25045-6", "LN", "CT unspecified body region"),
    "artificial_intelligence": ("123110", "DCM", "Artificial Intelligence"),
    "manual_processing": ("123109", "DCM", "Manual Processing"),
    "summary": ("121111", "DCM", "Summary"),
    "evaluations": ("C0034375", "UMLS", "Qualitative Evaluations"),
}


def _concept(value: str, scheme: str, meaning: str) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(value, scheme, meaning)
