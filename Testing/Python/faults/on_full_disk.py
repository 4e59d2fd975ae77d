"""Runs jobs whose temporary files are to find a full disk: `python on_full_disk.py FOLDER SCENARIO`; prints JSON.

FOLDER is a small file system of its own, or the process may write only small files (see test_full_disk).
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from core import fake_segmenter
from core.phantom import grid, phantom

from medconv.segmenter import SegmenterRequest
from medconv.types import CTVolume, ImageGeometry, MedConvError
from medconv.worker_client import WorkerClient

REQUEST = SegmenterRequest("demonstration")
SMALL = phantom(grid((2.0, 2.0, 2.0))).ct  # 0.7 MB
# The scenario that fills the disk lets this one pass.
OTHER = replace(SMALL, array_zyx=np.where(SMALL.array_zyx > 600, 1200, SMALL.array_zyx).astype(np.int16))
LARGE = CTVolume(np.zeros((100, 512, 512), np.int16), ImageGeometry((512, 512, 100), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))


def attempt(worker: WorkerClient, ct: CTVolume) -> dict[str, str]:
    """How a segmentation ended."""
    try:
        found = worker.segment_and_wait(ct, REQUEST)
    except MedConvError as error:
        return {"code": error.code, "message": error.message, "remedy": error.remedy}
    right = np.array_equal(found.labels_zyx, (ct.array_zyx > 300) * 31)
    return {"code": "right" if right else "wrong"}


def main(folder: Path, scenario: str) -> None:
    tempfile.tempdir = str(folder)
    behaviour = "steady" if scenario in ("hand_over", "nothing_free") else scenario
    worker = WorkerClient([sys.executable, fake_segmenter.__file__, behaviour])
    filler = folder / "filler"
    if scenario == "nothing_free":
        with filler.open("wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(65536))
            except OSError:
                pass
    first = attempt(worker, LARGE if scenario == "hand_over" else SMALL)
    filler.unlink(missing_ok=True)
    second = attempt(worker, OTHER)
    worker.close()
    print(json.dumps({"first": first, "second": second, "left": [path.name for path in folder.iterdir()]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
