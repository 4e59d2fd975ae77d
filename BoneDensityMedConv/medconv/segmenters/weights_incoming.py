"""A private place beside the weights, for what is on its way in: nothing half ever has a network's name."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from medconv.types import MissingRequirement

PREFIX = ".medconv-incoming-"


@contextlib.contextmanager
def incoming(folder: Path) -> Iterator[Path]:
    """An empty folder inside `folder`, thus on the same disk, so that moving what is whole is one step.

    It is gone at the end, and so are those of killed processes. Raises MissingRequirement if nothing can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clear_abandoned(folder)
        place = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=folder))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield place
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def clear_abandoned(folder: Path) -> None:
    """Remove what fetches left that were killed: their process is gone."""
    for place in folder.glob(f"{PREFIX}*"):
        owner = place.name.removeprefix(PREFIX).partition("-")[0]
        if not (owner.isdigit() and _is_running(int(owner))):
            shutil.rmtree(place, ignore_errors=True)


def _is_running(process_id: int) -> bool:
    if os.name == "nt":  # os.kill(pid, 0) would send Ctrl+C there; files in use resist their removal anyway
        return process_id == os.getpid()
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _unwritable(folder: Path, error: OSError) -> MissingRequirement:
    return MissingRequirement(
        "weights_folder_not_writable",
        f"The weights can't be written ({error.strerror or error}).",
        "Check the folder's permissions and free space (about 1 GB), or choose another weights folder.",
        str(folder),
    )
