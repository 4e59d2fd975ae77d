"""How the CT was made, as far as Slicer's DICOM database or the subject hierarchy tells; never who the patient is."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import slicer

from medconv.dicom_tags import ACQUISITION_TAGS, acquisition_from_tags
from medconv.types import Acquisition

INSTANCE_UIDS_ATTRIBUTE = "DICOM.instanceUIDs"
MODALITY_ITEM_ATTRIBUTE = "DICOM.Modality"
OWN_ATTRIBUTE = "BoneDensityMedConv.Acquisition"  # JSON of `Acquisition`, on volumes that were read by medconv itself


def acquisition_of(node: Any) -> Acquisition:
    """What is known of a volume node's acquisition; fields are None where nothing is known."""
    own = node.GetAttribute(OWN_ATTRIBUTE)
    if own:
        facts = json.loads(own)
        return Acquisition(**facts | {"image_type": tuple(facts["image_type"])})
    read = _dicom_reader(node)
    found = acquisition_from_tags({tag: read(tag.replace("|", ",")) for tag in ACQUISITION_TAGS})
    return replace(found, modality=found.modality or _modality_in_hierarchy(node) or None)


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
