"""A command's folder of results: all files of an answer appear together, or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medconv.input_paths import check_out
from medconv.types import UsageError

STAGING_PREFIX = ".medconv-unfinished-"
ANSWER = (
    "result.json", "report.html", "labels.nii.gz", "labels.json", "levels.json", "levels.svg", "levels.png",
    *(
        f"{vertebra}_{what}"
        for vertebra in ("l1", "t12", "l2")
        for what in (
            "mask.nii.gz", "sagittal.png", "axial.png", "coronal.png", "explanation.nii.gz", "explanation.png",
            "segmentation.dcm", "report.dcm",
        )
    ),
    "explanation.json",
)  # fmt: skip
COMPARISON = tuple(f"comparison.{ending}" for ending in ("json", "csv", "html", "svg", "png"))


def prepare(out: Path, names: Iterable[str], inputs: Iterable[Path | None]) -> None:
    """Make the folder, and remove earlier results: an earlier answer must not stand beside a new refusal.

    names: which files are results. inputs: what the command reads; it must not be among them.
    Raises UsageError (the folder is a file, or an input would be removed), OSError if it can't be written.
    """
    check_out(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UsageError("out_is_a_file", f"{out} is a file, not a folder.", "Choose another --out.") from error
    results = [out / name for name in names]
    read = {os.path.realpath(path) for path in inputs if path is not None}  # unlike resolve, it stands a loop of links
    if any(os.path.realpath(path) in read for path in results):
        raise UsageError(
            "input_in_out",
            f"{out} holds what is to be read, as an earlier result that would be replaced.",
            "Choose another --out.",
        )
    for path in results:
        path.unlink(missing_ok=True)
    for abandoned in out.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(abandoned, ignore_errors=True)


@contextmanager
def written_together(out: Path) -> Iterator[Path]:
    """A folder to write into; its files move to `out` when all are written, and go if anything fails."""
    staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=out))
    try:
        yield staging
        for file in sorted(staging.iterdir()):
            file.replace(out / file.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
