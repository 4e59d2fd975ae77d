"""Acquisition facts out of DICOM tags, as SimpleITK gives them ("0018|0060" → text). Never an identity."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from medconv.types import Acquisition

MODALITY, KVP, THICKNESS, KERNEL = "0008|0060", "0018|0060", "0018|0050", "0018|1210"
CONTRAST, AGE, SEX, IMAGE_TYPE = "0018|0010", "0010|1010", "0010|0040", "0008|0008"
ACQUISITION_TAGS = (MODALITY, KVP, THICKNESS, KERNEL, CONTRAST, AGE, SEX, IMAGE_TYPE)
YEARS_PER_UNIT = {"Y": 1.0, "M": 1 / 12, "W": 1 / 52, "D": 1 / 365}
NO_CONTRAST = frozenset({"", "0", "N", "NO", "NONE", "N/A", "NA", "WITHOUT", "NATIVE"})


def acquisition_from_tags(tags: Mapping[str, str]) -> Acquisition:
    """What the tags say; anything missing or malformed is None."""
    contrast = first_value(tags, CONTRAST)
    return Acquisition(
        modality=first_value(tags, MODALITY),
        kvp=positive_number(tags, KVP),
        slice_thickness_mm=positive_number(tags, THICKNESS),
        kernel=first_value(tags, KERNEL),
        contrast_agent=None if (contrast or "").upper() in NO_CONTRAST else contrast,
        patient_age_years=age_years(first_value(tags, AGE)),
        patient_sex=first_value(tags, SEX),
        image_type=tuple(value.strip().upper() for value in tags.get(IMAGE_TYPE, "").split("\\") if value.strip()),
    )


def first_value(tags: Mapping[str, str], key: str) -> str | None:
    """The first of a tag's values, or None if there is none."""
    return tags.get(key, "").split("\\")[0].strip(" \0") or None


def positive_number(tags: Mapping[str, str], key: str) -> float | None:
    """The first value as a finite number above 0, or None."""
    try:
        value = float(first_value(tags, key) or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def numbers(tags: Mapping[str, str], key: str, count: int) -> list[float] | None:
    """All values as finite numbers; None unless there are `count` of them."""
    try:
        values = [float(value) for value in tags.get(key, "").split("\\")]
    except ValueError:
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def age_years(text: str | None) -> int | None:
    """Whole years from DICOM's age string ("061Y", "018M")."""
    match = re.fullmatch(r"([0-9]{1,3})([YMWD])", text or "")
    return int(int(match[1]) * YEARS_PER_UNIT[match[2]]) if match else None
