"""A `SpineSegmentation` as a file for another process: a `.npz` of plain arrays and JSON, without pickles."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from medconv.ct_file import geometry_from_json
from medconv.types import QualityNote, Severity, SpineSegmentation


def save_segmentation(path: Path, segmentation: SpineSegmentation) -> None:
    """Write it, uncompressed: it is read once and deleted, and unpacking would hold up the window that reads it.

    Raises OSError if the disk is full or the folder can't be written.
    """
    facts = {
        "start_xyz": [int(index) for index in segmentation.start_xyz],
        "ct_geometry": asdict(segmentation.ct_geometry),
        "names": {str(int(label)): name for label, name in segmentation.names.items()},
        "segmenter": segmentation.segmenter,
        "identity": segmentation.identity,
        "is_demonstration": segmentation.is_demonstration,
        "notes": [asdict(note) for note in segmentation.notes],
        "timing_s": {stage: float(seconds) for stage, seconds in segmentation.timing_s.items()},
    }
    with path.open("wb") as stream:
        np.savez(stream, labels=np.ascontiguousarray(segmentation.labels_zyx), facts=json.dumps(facts))


def load_segmentation(path: Path) -> SpineSegmentation:
    """Read what `save_segmentation` wrote. Raises OSError, KeyError or ValueError if it is something else."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            facts = json.loads(str(archive["facts"]))
            labels = archive["labels"]
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"the segmentation's file is damaged ({error})") from error
    x, y, z = facts["start_xyz"]
    return SpineSegmentation(
        labels,
        (x, y, z),
        geometry_from_json(facts["ct_geometry"]),
        {int(label): name for label, name in facts["names"].items()},
        facts["segmenter"],
        facts["identity"],
        facts["is_demonstration"],
        tuple(QualityNote(n["code"], Severity(n["severity"]), n["message"]) for n in facts["notes"]),
        facts["timing_s"],
    )
