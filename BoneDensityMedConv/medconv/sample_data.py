"""A CT to try things on: a real one that pip can fetch, and where it can't, a simulated one that says so.

Both are kept in this user's cache; the second call is a look at two files.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medconv import __version__
from medconv.grid import to_image
from medconv.packages import how_to_install
from medconv.sample_archive import CT_MEMBER, LICENCE_MEMBER, MASK_MEMBER, cache_folder, extract_member
from medconv.types import CTVolume, MedConvError, MissingRequirement
from medconv.volume_io import SIMULATED_MARK

L1_LABEL = 31  # vertebrae_L1 in TotalSegmentator 2's label map, and in the simulated one

REAL_TITLE = "Abdominal CT without contrast, 3 mm (example case of TotalSegmentator)"
REAL_LICENCE = "From TotalSegmentator 2.18.0, Apache-2.0. Its mask is the output of that network, not of an expert."
SIMULATED_TITLE = "Simulated CT of the lumbar spine (computed, not a patient)"
SIMULATED_LICENCE = "Made by medconv itself; free to use."


@dataclass(frozen=True)
class SampleCase:
    """A CT and a label map on its grid. `reason` says why the case is simulated; it is "" for the real one."""

    ct_path: Path
    mask_path: Path
    label: int
    title: str
    licence_note: str
    is_simulated: bool
    reason: str = ""


def obtain_sample(cache_dir: Path | None = None, download: bool = True) -> SampleCase:
    """The real sample case, or the simulated one where the real one can't be had.

    download: False stays off the network; then the real case is used only if it is in the cache.
    Raises OSError if the cache can't be written, MissingRequirement if neither case can be had.
    """
    folder = cache_folder() if cache_dir is None else cache_dir
    try:
        ct, mask, _ = (extract_member(m, folder, download) for m in (CT_MEMBER, MASK_MEMBER, LICENCE_MEMBER))
    except MissingRequirement as error:
        return _simulated(folder, error.message)
    return SampleCase(ct, mask, L1_LABEL, REAL_TITLE, REAL_LICENCE, is_simulated=False)


def obtain_simulated(cache_dir: Path | None = None) -> SampleCase:
    """The simulated case. Raises OSError if the cache can't be written, MissingRequirement if scipy is missing."""
    return _simulated(cache_folder() if cache_dir is None else cache_dir, "")


# --- the simulated case


def _simulated(folder: Path, reason: str) -> SampleCase:
    """The simulated case from the cache, computed at the first call (the file names carry the version that made it)."""
    ct = folder / f"simulated-lumbar-ct-{__version__}.nii.gz"
    mask = folder / f"simulated-lumbar-vertebrae-{__version__}.nii.gz"
    if not (ct.is_file() and mask.is_file()):
        case = _simulate()
        folder.mkdir(parents=True, exist_ok=True)
        _write_simulated(CTVolume(case.labels_zyx, case.ct.geometry, is_simulated=True), mask)
        _write_simulated(case.ct, ct)
    return SampleCase(ct, mask, L1_LABEL, SIMULATED_TITLE, SIMULATED_LICENCE, is_simulated=True, reason=reason)


def _simulate() -> Any:
    """The same simulated person every time. Raises MissingRequirement if a package that this needs is not there."""
    try:
        from medconv.simulate import simulate_lumbar_ct

        return simulate_lumbar_ct(seed=0)
    except ModuleNotFoundError as error:
        raise MissingRequirement(
            "simulation_package_missing",
            f"Simulating a CT needs the package {error.name}, which is not installed.",
            f"Use a CT of your own, or install it. {how_to_install(packages=str(error.name))}",
        ) from error


def _write_simulated(volume: CTVolume, path: Path) -> None:
    """NIfTI whose description says that it is simulated, so that it is recognised under any file name."""
    import SimpleITK as sitk

    image = to_image(volume.array_zyx, volume.geometry)
    image.SetMetaData("ITK_FileNotes", SIMULATED_MARK)  # ITK's name for NIfTI's `descrip` field
    draft = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        sitk.WriteImage(image, str(draft), useCompression=True)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def main() -> int:
    """Obtain the sample (with `--simulated` that one) and print it as one line of JSON; notes go to standard error."""
    try:
        case = obtain_simulated() if "--simulated" in sys.argv[1:] else obtain_sample()
    except (MedConvError, OSError) as error:
        print(f"The sample CT could not be put into {cache_folder()}: {error}", file=sys.stderr)
        return 1
    if case.reason:
        print(f"{case.reason}\nUsing a simulated CT instead.", file=sys.stderr)
    described = {
        "ct": str(case.ct_path),
        "mask": str(case.mask_path),
        "label": case.label,
        "title": case.title,
        "licence_note": case.licence_note,
        "is_simulated": case.is_simulated,
    }
    print(json.dumps(described))
    return 0


if __name__ == "__main__":
    sys.exit(main())
