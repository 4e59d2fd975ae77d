"""How the CT was made, as far as Slicer's DICOM database or the subject hierarchy tells; never who the patient is."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import slicer

from medconv.types import Acquisition

INSTANCE_UIDS_ATTRIBUTE = "DICOM.instanceUIDs"
MODALITY_ITEM_ATTRIBUTE = "DICOM.Modality"
OWN_ATTRIBUTE = "BoneDensityMedConv.Acquisition"  # JSON of `Acquisition`, on volumes that were read by medconv itself


def acquisition_of(node: Any) -> Acquisition:
    """What is known of a volume node's acquisition; fields are None where nothing is known."""
    own = node.GetAttribute(OWN_ATTRIBUTE)
    if own:
        return Acquisition(**json.loads(own))
    tags = _dicom_reader(node)
    modality = tags("0008,0060") or _modality_in_hierarchy(node)
    return Acquisition(
        modality=modality or None,
        kvp=_number(tags("0018,0060")),
        slice_thickness_mm=_number(tags("0018,0050")),
        kernel=tags("0018,1210") or None,
        contrast_agent=tags("0018,0010") or None,
        patient_age_years=_age_years(tags("0010,1010")),
        patient_sex=tags("0010,0040") or None,
    )


def keep_acquisition(node: Any, acquisition: Acquisition) -> None:
    """Write what is known to the volume node, so that it is saved with the scene."""
    node.SetAttribute(OWN_ATTRIBUTE, json.dumps(asdict(acquisition)))


def _dicom_reader(node: Any) -> Any:
    """A function from a tag ("group,element") to its text in the volume's first DICOM file, "" if unknown."""
    instances = (node.GetAttribute(INSTANCE_UIDS_ATTRIBUTE) or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    if not instances or database is None or not database.isOpen:
        return lambda tag: ""
    return lambda tag: str(database.instanceValue(instances[0], tag) or "").strip()


def _modality_in_hierarchy(node: Any) -> str:
    scene = node.GetScene()
    if scene is None or scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode") is None:
        return ""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(node)
    return hierarchy.GetItemAttribute(item, MODALITY_ITEM_ATTRIBUTE) if item else ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _age_years(text: str) -> int | None:
    """A DICOM age string ("055Y", "018M") in completed years."""
    match = re.fullmatch(r"(\d{3})([DWMY])", text)
    if match is None:
        return None
    count = int(match[1])
    return count if match[2] == "Y" else count // {"M": 12, "W": 52, "D": 365}[match[2]]
