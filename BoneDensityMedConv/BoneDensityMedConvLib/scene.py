"""From MRML to the core: a volume node becomes a `CTVolume`, a segment becomes an `L1Mask` on the CT's grid.

The one place where RAS is turned into LPS. Voxels of the CT are not copied. Parent transforms count: what the person
sees in the slice views is what is measured, as long as the transform is linear.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import vtk_to_numpy

from BoneDensityMedConvLib.acquisition import acquisition_of
from medconv import l1_mask
from medconv.types import (
    CTVolume,
    FloatArray,
    ImageGeometry,
    InputRefused,
    L1Mask,
    Vector3,
)

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SIMULATED_ATTRIBUTE = "BoneDensityMedConv.Simulated"
MAXIMUM_SHEAR = 1e-3  # cosine between voxel axes; above it the axes are not at right angles
LATTICE_TOLERANCE_VOXELS = 1e-3


def ct_volume(node: Any) -> CTVolume:
    """The CT in a `vtkMRMLScalarVolumeNode`, as a view on its voxels; `keep_alive` holds the image.

    Raises InputRefused if the node holds no grey-value volume, has a non-linear transform or sheared axes.
    """
    if node.IsA("vtkMRMLLabelMapVolumeNode") or not node.IsA("vtkMRMLScalarVolumeNode"):
        raise InputRefused(
            "not_a_ct", f"'{node.GetName()}' is not a grey-value volume.", "Choose the CT as the input volume."
        )
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0 or image.GetNumberOfScalarComponents() != 1:
        raise InputRefused("empty_volume", f"'{node.GetName()}' holds no voxels.", "Load the CT again.")
    size = image.GetDimensions()
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(size[::-1])
    geometry = _geometry(ct_to_world(node), size)
    _refuse_shear(geometry, node.GetName())
    return CTVolume(
        array_zyx=voxels,
        geometry=geometry,
        acquisition=acquisition_of(node),
        source=node.GetName() or "",
        is_simulated=is_simulated(node),
        keep_alive=image,
    )


def segment_mask(segmentation: Any, segment_id: str, ct: CTVolume) -> L1Mask:
    """One segment of a `vtkMRMLSegmentationNode` on the CT's grid.

    Exact where the segment lies on the CT's own voxels; otherwise nearest neighbours are taken, within the segment's
    block only. Segments without a binary labelmap (surfaces, contours) are filled on the CT's voxels.
    Raises InputRefused if the segment is not there, empty, not convertible, or elsewhere in space.
    """
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        raise InputRefused("segment_gone", "The chosen segment is no longer there.", "Choose the segment of L1 again.")
    to_world = world_matrix(segmentation)
    labelmap, label = _labelmap(segmentation, segment, segment_id, to_world, ct)
    if labelmap is None or labelmap.GetNumberOfPoints() == 0:
        raise _empty(segment)
    extent = labelmap.GetExtent()
    size = labelmap.GetDimensions()
    labels = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(size[::-1])
    block, start = tight_block(labels, label)
    if block is None:
        raise _empty(segment)
    index_to_local = matrix_of(labelmap.GetImageToWorldMatrix)
    first = np.array([extent[0], extent[2], extent[4]]) + start
    geometry = _geometry(to_world @ index_to_local @ _shift(first), block.shape[::-1])
    name = segment.GetName() or segment_id
    return _same_lattice(block, geometry, ct, name) or l1_mask.from_array(block, geometry, ct.geometry, name)


def ct_to_world(node: Any) -> FloatArray:
    """Voxel index → RAS millimetres in the world, shape (4, 4), parent transform included."""
    return world_matrix(node) @ matrix_of(node.GetIJKToRASMatrix)


def geometry_in(node: Any, ct_node: Any) -> ImageGeometry:
    """The CT's grid as it lies in another node's own frame (before that node's parent transform)."""
    size = ct_node.GetImageData().GetDimensions()
    return _geometry(np.linalg.inv(world_matrix(node)) @ ct_to_world(ct_node), size)


def world_matrix(node: Any) -> FloatArray:
    """The node's parent transform to the world, shape (4, 4). Raises InputRefused if it is not linear."""
    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    if not transform.IsTransformToWorldLinear():
        raise InputRefused(
            "transform_not_linear",
            f"'{node.GetName()}' is under a non-linear transform ('{transform.GetName()}').",
            "Harden the transform (Data module, right click on the transform's symbol), then analyse again.",
        )
    return matrix_of(transform.GetMatrixTransformToWorld)


def matrix_of(fill: Any) -> FloatArray:
    """The numbers of a vtkMatrix4x4 that `fill(matrix)` sets, shape (4, 4)."""
    matrix = vtk.vtkMatrix4x4()
    fill(matrix)
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])


def is_simulated(node: Any) -> bool:
    """True for a volume node that medconv's own simulation filled."""
    return node.GetAttribute(SIMULATED_ATTRIBUTE) == "1"


def is_changing(scene: Any) -> bool:
    """True while a scene is being loaded or closed, when nodes are half there."""
    return scene is not None and bool(scene.IsBatchProcessing() or scene.IsImporting() or scene.IsClosing())


def vtk_matrix(values: FloatArray) -> Any:
    """Numbers, shape (4, 4), as a vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(values, float).ravel().tolist())
    return matrix


def index_to_ras(geometry: ImageGeometry) -> FloatArray:
    """A core grid's voxel index → RAS millimetres, shape (4, 4)."""
    return RAS_TO_LPS @ geometry.matrix()


def _geometry(index_to_ras_world: FloatArray, size_xyz: Any) -> ImageGeometry:
    """A core grid (LPS) from MRML's index → RAS matrix."""
    matrix = RAS_TO_LPS @ index_to_ras_world
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.all(np.isfinite(matrix)) or spacing.min() <= 0:
        raise InputRefused("bad_geometry", "The image's voxel axes are not usable.", "Load the image again.")
    direction = matrix[:3, :3] / spacing
    x, y, z = (int(n) for n in size_xyz)
    return ImageGeometry((x, y, z), vector3(spacing), vector3(matrix[:3, 3]), tuple(float(v) for v in direction.flat))


def vector3(values: Any) -> Vector3:
    """Three floats."""
    x, y, z = (float(v) for v in values)
    return x, y, z


def _refuse_shear(geometry: ImageGeometry, name: str) -> None:
    direction = np.reshape(geometry.direction, (3, 3))
    if np.abs(direction.T @ direction - np.eye(3)).max() > MAXIMUM_SHEAR:
        raise InputRefused(
            "sheared_volume",
            f"The voxel axes of '{name}' are not at right angles (a tilted gantry or a shearing transform).",
            "Resample the CT to a rectangular grid (module Resample Scalar/Vector/DWI Volume) and use that.",
        )


def _labelmap(segmentation: Any, segment: Any, segment_id: str, to_world: FloatArray, ct: CTVolume) -> tuple[Any, int]:
    """The image that holds the segment and the segment's value in it; the image may be shared: read only."""
    name = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    source = segmentation.GetSegmentation().GetSourceRepresentationName()
    if source == name:
        return segment.GetRepresentation(name), int(segment.GetLabelValue())
    # A copy of this one segment is converted, on the CT's voxels, so that the person's own node stays as it is.
    own = slicer.vtkSegmentation()
    own.SetSourceRepresentationName(source)
    own.CopySegmentFromSegmentation(segmentation.GetSegmentation(), segment_id)
    grid = np.linalg.inv(to_world) @ index_to_ras(ct.geometry)
    x, y, z = ct.geometry.size_xyz
    text = slicer.vtkSegmentationConverter.SerializeImageGeometry(vtk_matrix(grid), [0, x - 1, 0, y - 1, 0, z - 1])
    own.SetConversionParameter(slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(), text)
    if not own.CreateRepresentation(name):
        raise InputRefused(
            "segment_not_convertible",
            f"The segment '{segment.GetName()}' can't be turned into voxels.",
            "Create its binary labelmap in the Segmentations module, then analyse again.",
        )
    converted = own.GetNthSegment(0)
    return converted.GetRepresentation(name), int(converted.GetLabelValue())


def tight_block(labels_zyx: NDArray[Any], label: int) -> tuple[NDArray[np.bool_] | None, NDArray[np.int64]]:
    """The bounding box of one label, and its first voxel (x, y, z); slice by slice, so without a whole copy."""
    slices = [z for z in range(labels_zyx.shape[0]) if (labels_zyx[z] == label).any()]
    if not slices:
        return None, np.zeros(3, np.int64)
    slab = labels_zyx[slices[0] : slices[-1] + 1] == label
    rows, columns = np.flatnonzero(slab.any(axis=(0, 2))), np.flatnonzero(slab.any(axis=(0, 1)))
    block = slab[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    return block, np.array([columns[0], rows[0], slices[0]])


def _same_lattice(block: NDArray[np.bool_], geometry: ImageGeometry, ct: CTVolume, name: str) -> L1Mask | None:
    """The block placed on the CT voxel for voxel, or None if the two grids do not coincide."""
    to_ct = np.linalg.inv(ct.geometry.matrix()) @ geometry.matrix()
    first = np.rint(to_ct[:3, 3]).astype(int)
    last_xyz = np.array(geometry.size_xyz) - 1
    drift = np.abs(to_ct[:3, :3] - np.eye(3)) @ last_xyz + np.abs(to_ct[:3, 3] - first)
    if drift.max() > LATTICE_TOLERANCE_VOXELS:
        return None
    low = np.maximum(first, 0)
    high = np.minimum(first + last_xyz + 1, ct.geometry.size_xyz)
    if np.any(high <= low):
        return None
    (x0, y0, z0), (x1, y1, z1) = (low - first).tolist(), (high - first).tolist()
    inside = block[z0:z1, y0:y1, x0:x1]
    x, y, z = low.tolist()
    return L1Mask(inside, (x, y, z), ct.geometry, name) if inside.any() else None


def _shift(voxels_xyz: NDArray[Any]) -> FloatArray:
    matrix = np.eye(4)
    matrix[:3, 3] = voxels_xyz
    return matrix


def _empty(segment: Any) -> InputRefused:
    return InputRefused("mask_empty", f"The segment '{segment.GetName()}' is empty.", "Choose a segment that holds L1.")
