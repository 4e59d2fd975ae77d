"""Voxels of one file that lie slice after slice, raw or compressed as one stream: read whole, or only what is needed.

The file is read, not mapped into memory: a network drive that goes away, or a file that shrinks under us, is then an
error that can be told, and not the end of the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medconv.gzip_stream import cut_off, pieces
from medconv.types import Index3


@dataclass(frozen=True)
class StoredVoxels:
    """Where a file keeps its voxels, and how.

    offset: of the first voxel, or of the compressed stream. skip: bytes of that stream before the first voxel.
    stored: the type in the file, with its byte order. dtype: of what is read; value = stored x slope + intercept.
    """

    path: Path
    offset: int
    shape_zyx: Index3
    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    is_compressed: bool = False
    skip: int = 0
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def nbytes(self) -> int:
        """Of all voxels as they are stored, uncompressed."""
        return int(np.prod(self.shape_zyx, dtype=np.int64)) * self.stored.itemsize

    def check_size(self) -> None:
        """Raises InputRefused if an uncompressed file is too short for its voxels."""
        found = self.path.stat().st_size
        if not self.is_compressed and found < self.offset + self.nbytes:
            raise cut_off(found, self.offset + self.nbytes)

    def slices(self, wanted: Iterable[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        """The wanted slices, shape (y, x), in rising order; each is valid until the next one is asked for.

        Of a compressed file the rest is decompressed too: its checksum stands at the end.
        Raises InputRefused if the file is cut off or damaged.
        """
        numbers = sorted(set(wanted))
        for z, values in self._compressed(numbers) if self.is_compressed else self._raw(numbers):
            yield z, self._scaled(values)

    def whole(self) -> tuple[NDArray[Any], object]:
        """All voxels, shape (z, y, x), read-only, and the owner of their memory. Raises as `slices`."""
        depth = self.shape_zyx[0]
        result = np.empty(self.shape_zyx, self.dtype)
        for z, values in self.slices(range(depth)):
            result[z] = values
        result.flags.writeable = False
        return result, result

    def _raw(self, numbers: list[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        buffer = np.empty(self.shape_zyx[1:], self.stored)
        with self.path.open("rb", buffering=0) as file:
            for z in numbers:
                start = self.offset + z * buffer.nbytes
                file.seek(start)
                found = _fill(file, buffer)
                if found < buffer.nbytes:
                    raise cut_off(start + found, self.offset + self.nbytes)
                yield z, buffer

    def _compressed(self, numbers: list[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        buffer = np.empty(self.shape_zyx[1:], self.stored)
        view, size = buffer.data.cast("B"), buffer.nbytes
        at, coming = -self.skip, iter(numbers)  # `at`: place of the piece's first byte among the voxels' bytes
        z = next(coming, None)
        for piece in pieces(self.path, self.offset):
            end = at + len(piece)
            while z is not None and z * size < end:
                start, stop = max(at, z * size), min(end, (z + 1) * size)
                view[start - z * size : stop - z * size] = memoryview(piece)[start - at : stop - at]
                if stop < (z + 1) * size:
                    break
                yield z, buffer
                z = next(coming, None)
            at = end
        if at < self.nbytes:
            raise cut_off(at + self.skip, self.nbytes + self.skip)

    def _scaled(self, values: NDArray[Any]) -> NDArray[Any]:
        if (self.slope, self.intercept) == (1.0, 0.0):
            return values
        # As ITK does it: first to the result's type, then in double precision.
        scaled = values.astype(self.dtype).astype(np.float64) * self.slope + self.intercept
        return scaled.astype(self.dtype)


def _fill(file: Any, buffer: NDArray[Any]) -> int:
    """Read until the buffer is full or the file ends; how many bytes came."""
    view, found = buffer.data.cast("B"), 0
    while found < len(view) and (count := file.readinto(view[found:])):
        found += count
    return found
