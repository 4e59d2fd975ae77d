"""A spine in the scene: every vertebra and landmark that a segmenter found is a segment of its own; and back again.

Each segment of a segmentation that was made here keeps the name that the segmenter gave it in a tag, whatever it is
used as since.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from numpy.typing import NDArray

from BoneDensityMedConvLib import fingerprint, scene, segmentation_origin, segments, terminology
from medconv import vertebrae
from medconv.types import CTVolume, InputRefused, L1Mask, SpineSegmentation

FOUND_AS_TAG = "BoneDensityMedConv.FoundAs"
CHECKSUMS_KEPT = 16

_checksums: dict[tuple[Any, ...], int] = {}


def add_spine(found: SpineSegmentation, ct_node: Any, request: str) -> Any:
    """A new segmentation node beside the CT with one segment for every structure that was found.

    request: what was asked for, as `find_spine` will be given it. All segments share one labelmap.
    """
    mrml_scene = ct_node.GetScene()
    title = f"{ct_node.GetName()} vertebrae ({segmentation_origin.segmenter_name(found.segmenter)})"
    node = mrml_scene.AddNewNodeByClass("vtkMRMLSegmentationNode", mrml_scene.GenerateUniqueName(title))
    labelmap = segments.place_labels(node, found.labels_zyx, found.start_xyz, ct_node)
    node.SetDisplayVisibility(False)  # until it is shown with the measured vertebra standing out
    masks = _masks_in(found)
    order = [*(v for v in vertebrae.ORDER if v in masks), *(n for n in masks if not vertebrae.is_vertebra(n))]
    core = node.GetSegmentation()
    for name in order:
        segment = slicer.vtkSegment()
        segment.SetTag(FOUND_AS_TAG, name)
        segment.SetLabelValue(found.label_of(name))
        segment.AddRepresentation(segments.LABELMAP, labelmap)
        _call(segment, name)
        core.AddSegment(segment, name)
    segmentation_origin.keep(node, ct_node, found, request, masks)
    segments.place_beside(mrml_scene, node, ct_node)
    return node


def find_spine(ct_node: Any, request: str) -> Any:
    """The latest segmentation that this request made from what the CT holds now, or None."""
    nodes = ct_node.GetScene().GetNodesByClass("vtkMRMLSegmentationNode")
    for index in reversed(range(nodes.GetNumberOfItems())):
        node = nodes.GetItemAsObject(index)
        if segmentation_origin.request_of(node) != request or node.GetSegmentation().GetNumberOfSegments() == 0:
            continue
        if segmentation_origin.is_of(node, ct_node):
            return node
    return None


def found_structures(node: Any, preferred_id: str = "") -> dict[str, str]:
    """Structure, by the name it was found as → segment's id, in the order of the node's segments.

    Where two segments claim the same structure, it is `preferred_id` if that is one of them, else the first.
    """
    found: dict[str, str] = {}
    core = node.GetSegmentation()
    for index in range(core.GetNumberOfSegments()):
        segment_id, segment = core.GetNthSegmentID(index), core.GetNthSegment(index)
        name = found_as(segment)
        if name and (name not in found or segment_id == preferred_id):
            found[name] = segment_id
    return found


def found_vertebrae(node: Any) -> list[str]:
    """Found names of the vertebrae among a node's segments."""
    return [name for name in found_structures(node) if vertebrae.is_vertebra(name)]


def others_on(ct_node: Any, segmentation: Any) -> list[Any]:
    """Segmentations of that CT, as far as they say, that name vertebrae, apart from the given one."""
    if ct_node is None or ct_node.GetScene() is None:
        return []
    nodes = ct_node.GetScene().GetNodesByClass("vtkMRMLSegmentationNode")
    found = []
    for node in (nodes.GetItemAsObject(i) for i in range(nodes.GetNumberOfItems())):
        its_ct = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        if node is not segmentation and its_ct in (None, ct_node) and found_vertebrae(node):
            found.append(node)
    return found


def found_as(segment: Any) -> str:
    """The name that the segmenter gave a segment, else the one that its tag or name states, or ""."""
    tag = vtk.reference("")
    return str(tag) if segment.GetTag(FOUND_AS_TAG, tag) else terminology.structure_of(segment)


def read_spine(node: Any, ct: CTVolume, preferred_id: str = "") -> SpineSegmentation | None:
    """What a segmentation node holds now, on the CT's grid; None if it names nothing that lies in the CT.

    Where segments overlap, a vertebra outweighs a landmark. Raises InputRefused (a transform that is not linear).
    """
    ids = found_structures(node, preferred_id)
    masks = _masks(node, {name: ids[name] for name in sorted(ids, key=vertebrae.is_vertebra)}, ct)
    if not masks:
        return None
    labels, start = _one_block(list(masks.values()))
    origin = segmentation_origin.origin_of(node)
    return SpineSegmentation(
        labels_zyx=labels,
        start_xyz=start,
        ct_geometry=ct.geometry,
        # What a network can find and did not is a finding too.
        names=dict(enumerate([*masks, *(name for name in origin.known if name not in masks)], start=1)),
        segmenter=origin.segmenter,
        identity=origin.identity,
        is_demonstration=origin.is_demonstration,
        notes=(*origin.notes, *segmentation_origin.edited(origin, masks)),
    )


def content_checksum(node: Any, ct_node: Any) -> int:
    """A checksum of a segmentation's vertebrae on the CT's voxels; saving and loading the scene does not change it."""
    ids = {name: i for name, i in found_structures(node).items() if vertebrae.is_vertebra(name)}
    key = (id(node), id(ct_node), *_times(node, ct_node, ids))
    if key not in _checksums:
        ct = scene.ct_volume(ct_node)
        known = {name: fingerprint.of_mask(mask) for name, mask in _masks(node, ids, ct).items()}
        if len(_checksums) >= CHECKSUMS_KEPT:
            _checksums.clear()
        _checksums[key] = zlib.crc32(json.dumps(known, sort_keys=True).encode())
    return _checksums[key]


def call_as(node: Any, used_as: Mapping[str, str]) -> None:
    """Name and tag the segments of a segmentation that was made here as what they are used as since a relabel.

    used_as: found name → name in use. A person's own segmentation is left alone.
    """
    if not segmentation_origin.is_made_here(node):
        return
    core = node.GetSegmentation()
    for found, segment_id in found_structures(node).items():
        segment = core.GetSegment(segment_id)
        name = used_as.get(found, found)
        if segment.GetName() != terminology.plain_name(name):
            _call(segment, name)


def _masks_in(found: SpineSegmentation) -> dict[str, L1Mask]:
    """The masks of all structures that a segmenter found, in one pass over the labels."""
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.ComputePerimeterOff()
    shape.Execute(sitk.GetImageFromArray(found.labels_zyx))
    masks = {}
    for label in shape.GetLabels():
        x, y, z, width, height, depth = shape.GetBoundingBox(label)
        block = found.labels_zyx[z : z + depth, y : y + height, x : x + width] == label
        a, b, c = np.add((x, y, z), found.start_xyz).tolist()
        if label in found.names:
            masks[found.names[label]] = L1Mask(block, (a, b, c), found.ct_geometry, found.segmenter)
    return masks


def _masks(node: Any, ids: Mapping[str, str], ct: CTVolume) -> dict[str, L1Mask]:
    """The masks of those segments that hold anything inside the CT."""
    masks = {}
    for name, segment_id in ids.items():
        try:
            masks[name] = scene.segment_mask(node, segment_id, ct)
        except InputRefused as refusal:
            if refusal.code not in ("mask_empty", "mask_elsewhere"):
                raise
    return masks


def _times(node: Any, ct_node: Any, ids: Mapping[str, str]) -> list[Any]:
    """When what the masks are made of was last changed."""
    core = node.GetSegmentation()
    source = core.GetSourceRepresentationName()
    images = [core.GetSegment(segment_id).GetRepresentation(source) for segment_id in ids.values()]
    matrices = [tuple(scene.world_matrix(n).ravel()) for n in (node, ct_node)]
    grid = tuple(scene.matrix_of(ct_node.GetIJKToRASMatrix).ravel())
    return [tuple(ids.items()), *(image.GetMTime() for image in images if image), *matrices, grid]


def _call(segment: Any, structure: str) -> None:
    segment.SetName(terminology.plain_name(structure))
    terminology.tag(segment, structure)


def _one_block(masks: list[L1Mask]) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
    """Masks on one CT → labels 1, 2, … in their order, in the block that holds them all, and its first voxel."""
    low = np.min([mask.start_xyz for mask in masks], axis=0)
    high = np.max([np.add(mask.start_xyz, mask.block_zyx.shape[::-1]) for mask in masks], axis=0)
    labels = np.zeros((high - low)[::-1], np.uint8)
    for label, mask in enumerate(masks, start=1):
        x, y, z = np.asarray(mask.start_xyz) - low
        depth, height, width = mask.block_zyx.shape
        labels[z : z + depth, y : y + height, x : x + width][mask.block_zyx] = label
    x, y, z = low.tolist()
    return labels, (x, y, z)
