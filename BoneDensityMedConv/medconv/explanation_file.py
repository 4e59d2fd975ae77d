"""An `Explanation` as a file for another process: a `.npz` of plain arrays and JSON, without pickles."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from medconv.ct_file import geometry_from_json
from medconv.explanation import Explanation, PartShare
from medconv.types import ModelIdentity, QualityNote, Severity


def save_explanation(path: Path, explanation: Explanation) -> None:
    """Write it, uncompressed: it is read once and deleted. Raises OSError if the disk is full."""
    facts = asdict(explanation)
    values = facts.pop("values_zyx")
    with path.open("wb") as stream:
        np.savez(stream, values=values, facts=json.dumps(facts))


def load_explanation(path: Path) -> Explanation:
    """Read what `save_explanation` wrote. Raises OSError, KeyError, TypeError or ValueError for something else."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            facts = json.loads(str(archive["facts"]))
            values = archive["values"]
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"the explanation's file is damaged ({error})") from error
    return Explanation(
        **facts
        | {
            "values_zyx": values,
            "geometry": geometry_from_json(facts["geometry"]),
            "parts": tuple(PartShare(**part) for part in facts["parts"]),
            "model": ModelIdentity(**facts["model"]),
            "notes": tuple(QualityNote(n["code"], Severity(n["severity"]), n["message"]) for n in facts["notes"]),
        }
    )
