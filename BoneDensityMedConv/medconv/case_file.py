"""An `L1Case` as a file, to hand it to another process: a `.npz` of plain arrays and JSON, without pickles."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medconv.types import Acquisition, CTVolume, ImageGeometry, L1Case, LevelChoice, QualityNote, Severity


def save_case(path: Path, case: L1Case) -> None:
    """Write the case (some ten megabytes, uncompressed: it is read once and deleted)."""
    facts = {
        "geometry": asdict(case.ct.geometry),
        "acquisition": asdict(case.ct.acquisition),
        "is_simulated": case.ct.is_simulated,
        "center_lps_mm": case.center_lps_mm,
        "volume_ml": case.volume_ml,
        "touches_border": case.touches_border,
        "quality": [asdict(note) for note in case.quality],
        "level": asdict(case.level) if case.level else None,
    }
    with path.open("wb") as stream:
        np.savez(stream, hu=np.ascontiguousarray(case.ct.array_zyx), mask=case.mask_zyx, facts=json.dumps(facts))


def load_case(path: Path) -> L1Case:
    """Read what `save_case` wrote. Raises OSError, KeyError or ValueError if it is something else."""
    with np.load(path, allow_pickle=False) as archive:
        facts = json.loads(str(archive["facts"]))
        hu, mask = archive["hu"], archive["mask"].astype(bool)
    geometry = ImageGeometry(**{name: tuple(value) for name, value in facts["geometry"].items()})
    acquisition = Acquisition(**facts["acquisition"] | {"image_type": tuple(facts["acquisition"]["image_type"])})
    ct = CTVolume(hu, geometry, acquisition, is_simulated=facts["is_simulated"])
    told = facts["level"]
    level = LevelChoice(**told | {"doubts": _notes(told["doubts"])}) if told else None
    x, y, z = facts["center_lps_mm"]
    return L1Case(ct, mask, (x, y, z), facts["volume_ml"], facts["touches_border"], _notes(facts["quality"]), level)


def _notes(stored: list[dict[str, Any]]) -> tuple[QualityNote, ...]:
    return tuple(QualityNote(n["code"], Severity(n["severity"]), n["message"]) for n in stored)
