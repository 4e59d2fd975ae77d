"""A CT handed to another process: raw voxels that it maps into memory instead of copying them, and a page of facts.

Two files in one folder: `ct.raw` (slice by slice, little-endian) and `ct.json`, which is written last: where it is,
the voxels are complete. Neither holds an identity, nor the name of the file that the CT came from.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medconv.types import Acquisition, CTVolume, ImageGeometry, MissingRequirement

FACTS_FILE, VOXELS_FILE = "ct.json", "ct.raw"
# No space left, a quota, or a limit on the size of files: all mean the same to the person.
NO_SPACE = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})


class CTFileWriter:
    """Writes a CT piece by piece, so that a window that hands it over never waits long.

    Stored as int16 where all values are whole and fit, which holds for nearly every CT, else as float32.
    `path` is what `load_ct` takes once `write_some` has returned True. `fraction` is the part written, 0 to 1.
    """

    def __init__(self, folder: Path, ct: CTVolume) -> None:
        self.path = folder / FACTS_FILE
        self._voxels_path = folder / VOXELS_FILE
        self._ct = ct
        self._dtype = "<i2"
        self._next_slice = 0
        self._stream: IO[bytes] | None = None

    @property
    def fraction(self) -> float:
        return self._next_slice / max(1, len(self._ct.array_zyx))

    def write_some(self, max_bytes: int) -> bool:
        """Write on, whole slices of about `max_bytes` together and at least one; True once all is written.

        Raises MissingRequirement("disk_full"), and OSError for any other trouble with the folder.
        """
        try:
            if self._stream is None:
                self._stream = self._voxels_path.open("wb")
            self._write_slices(max_bytes)
            self._stream.flush()
            if self._next_slice < len(self._ct.array_zyx):
                return False
            # A full disk may be told only now (network drives), so closing belongs here too.
            self._stream.close()
            self.path.write_text(json.dumps(self._facts()), "ascii")
        except OSError as error:
            self.close()
            if error.errno in NO_SPACE:
                raise disk_full(self._ct.array_zyx.size * np.dtype(self._dtype).itemsize) from error
            raise
        return True

    def close(self) -> None:
        """Let go of the file; what was written so far stays. Safe to call more than once."""
        if self._stream is not None:
            # Closing tries to write what is left, which is why the disk may complain once more.
            with contextlib.suppress(OSError):
                self._stream.close()

    def _write_slices(self, max_bytes: int) -> None:
        assert self._stream is not None
        written = 0
        while self._next_slice < len(self._ct.array_zyx) and (written == 0 or written < max_bytes):
            values = _as_dtype(self._ct.array_zyx[self._next_slice], self._dtype)
            if values is None:
                self._dtype, self._next_slice = "<f4", 0
                self._stream.seek(0)
                self._stream.truncate()
                continue
            self._stream.write(values.data)
            written += values.nbytes
            self._next_slice += 1

    def _facts(self) -> dict[str, Any]:
        return {
            "dtype": self._dtype,
            "geometry": asdict(self._ct.geometry),
            "acquisition": asdict(self._ct.acquisition),
            "is_simulated": self._ct.is_simulated,
        }


def load_ct(path: Path) -> CTVolume:
    """Map what a CTFileWriter wrote; the voxels are read-only and are fetched from the disk as they are used.

    Raises OSError, KeyError or ValueError if it is something else or not complete.
    """
    facts = json.loads(path.read_text("ascii"))
    geometry = geometry_from_json(facts["geometry"])
    voxels = np.memmap(path.with_name(VOXELS_FILE), np.dtype(facts["dtype"]), "r", shape=geometry.shape_zyx)
    acquisition = Acquisition(**facts["acquisition"] | {"image_type": tuple(facts["acquisition"]["image_type"])})
    return CTVolume(voxels, geometry, acquisition, is_simulated=facts["is_simulated"], keep_alive=voxels)


def geometry_from_json(fields: Mapping[str, Any]) -> ImageGeometry:
    """An ImageGeometry from its fields as JSON keeps them (lists instead of tuples)."""
    return ImageGeometry(**{name: tuple(value) for name, value in fields.items()})


def disk_full(needed_bytes: int) -> MissingRequirement:
    """The error for a CT that finds no room on the disk for temporary files."""
    return MissingRequirement(
        "disk_full",
        "The disk for temporary files is full: the CT can't be handed to the analysis process.",
        f"Free {max(needed_bytes / 1e9, 0.1):.1f} GB or more, or set TMPDIR (Windows: TEMP) to a folder on another "
        "disk, then start again.",
    )


def _as_dtype(slice_yx: NDArray[Any], dtype: str) -> NDArray[Any] | None:
    """A slice as contiguous values of that type; None if int16 can't hold them unchanged."""
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and values out of range are found by the comparison
        values = np.ascontiguousarray(slice_yx, dtype)
    fits = dtype == "<f4" or np.can_cast(slice_yx.dtype, dtype) or np.array_equal(values, slice_yx)
    return values if fits else None
