"""A CT whose headers have been read and judged while its voxels are still in its files: read it whole, or around L1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv import neighbourhood
from medconv.grid import sample_step
from medconv.types import Acquisition, CTVolume, ImageGeometry, L1Mask, WholeCT

DTYPES = {
    sitk.sitkInt8: "i1", sitk.sitkUInt8: "u1", sitk.sitkInt16: "i2", sitk.sitkUInt16: "u2", sitk.sitkInt32: "i4",
    sitk.sitkUInt32: "u4", sitk.sitkInt64: "i8", sitk.sitkUInt64: "u8", sitk.sitkFloat32: "f4", sitk.sitkFloat64: "f8",
}  # fmt: skip


class Voxels(Protocol):
    """How the voxels of one CT are read. Both raise InputRefused for a file that is cut off or damaged."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values as they are read, rescaled."""

    def whole(self) -> tuple[NDArray[Any], object]:
        """All voxels, shape (z, y, x), and the owner of their memory."""

    def slices(self, wanted: Iterable[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        """The wanted slices, shape (y, x), in rising order; each is valid until the next one is asked for.

        Exhausted, it has also judged what can be told of the rest without reading it.
        """


@dataclass(frozen=True)
class CTSource:
    """What the headers tell of a CT, and where its voxels are. `geometry` is that of the whole CT.

    files: of a DICOM series, in slice order; () for anything else.
    """

    geometry: ImageGeometry
    acquisition: Acquisition
    source: str
    is_simulated: bool
    voxels: Voxels
    files: tuple[str, ...] = ()

    def read(self) -> CTVolume:
        """The whole CT. Raises InputRefused."""
        array, owner = self.voxels.whole()
        return CTVolume(array, self.geometry, self.acquisition, self.source, self.is_simulated, owner)

    def read_around(self, mask: L1Mask) -> CTVolume:
        """What the analysis of that mask and its pictures need, and an even sample of the rest for the HU scale.

        The answer, its notes and pictures are those of the whole CT (`grid.even_sample`, `neighbourhood.needed`).
        Raises InputRefused, ValueError if the mask lies on another grid.
        """
        if not mask.ct_geometry.same_grid_as(self.geometry):
            raise ValueError("the mask is not on this CT's grid")
        (x, y, z), (width, height, depth) = start, size = neighbourhood.needed(mask)
        slices, rows, columns = self.geometry.shape_zyx
        step = sample_step(slices * rows * columns)
        block = np.empty((depth, height, width), self.voxels.dtype)
        sample = np.empty((-(-slices // step), -(-rows // step), -(-columns // step)), self.voxels.dtype)
        for k, values in self.voxels.slices({*range(z, z + depth), *range(0, slices, step)}):
            if z <= k < z + depth:
                block[k - z] = values[y : y + height, x : x + width]
            if k % step == 0:
                sample[k // step] = values[::step, ::step]
        whole = WholeCT(self.geometry, sample)
        grid = self.geometry.cut(start, size)
        return CTVolume(block, grid, self.acquisition, self.source, self.is_simulated, slab_of=whole)


@dataclass(frozen=True)
class ImageVoxels:
    """Voxels of a file of any format that SimpleITK reads, read as a whole."""

    reader: sitk.ImageFileReader
    execute: Any

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(DTYPES[self.reader.GetPixelID()])

    def whole(self) -> tuple[NDArray[Any], object]:
        image = self.execute(self.reader)
        return sitk.GetArrayViewFromImage(image), image  # a view on a temporary would outlive its memory

    def slices(self, wanted: Iterable[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        array, _owner = self.whole()
        for z in sorted(set(wanted)):
            yield z, array[z]
