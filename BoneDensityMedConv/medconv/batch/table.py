"""The table: a row a case, sorted, with fixed columns and digits, so that equal outcomes give equal bytes.

Nothing that differs between two runs of the same cases is in it. It is made anew from the ledger, one case at a time.
"""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medconv import RESEARCH_USE_ONLY
from medconv.batch.jobs import COLUMNS, BatchJob, CaseOutcome, Status
from medconv.batch.ledger import Ledger
from medconv.config import CLASS_ORDER

CSV_FILE, PARQUET_FILE = "table.csv", "table.parquet"
ROWS_A_GROUP = 10_000
# Digits behind the point. More would be noise of the last bit in a probability, and of the scanner in HU.
DIGITS: Mapping[str, int] = {
    **{f"p_{c}": 6 for c in CLASS_ORDER},
    **{f"logit_{c}": 5 for c in CLASS_ORDER},
    **dict.fromkeys(("hu_mean", "hu_median", "hu_sd", "roi_ml", "l1_volume_ml", "kvp", "slice_thickness_mm"), 3),
}
WHOLE, YES_NO = ("roi_voxels",), ("level_in_doubt",)


def has_parquet() -> bool:
    """True if pyarrow is installed, which writes Parquet."""
    return importlib.util.find_spec("pyarrow") is not None


def write_table(folder: Path, ledger: Ledger) -> list[Path]:
    """Write table.csv and, with pyarrow, table.parquet; returns the files. Raises OSError."""
    files = [folder / CSV_FILE]
    _replace(files[0], lambda partial: _write_csv(partial, rows(ledger)))
    if has_parquet():
        files.append(folder / PARQUET_FILE)
        _replace(files[1], lambda partial: _write_parquet(partial, rows(ledger)))
    return files


def rows(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Rows by COLUMNS, sorted by case id; None where there is nothing to say."""
    firsts: dict[str, str] = {}
    for job, outcome in ledger.outcomes():
        row = row_of(job, outcome)
        if outcome.pixels:
            first = firsts.setdefault(outcome.pixels, job.case_id)
            row["same_pixels_as"] = first if first != job.case_id else None
        yield row


def row_of(job: BatchJob, outcome: CaseOutcome) -> dict[str, Any]:
    """The row of one case, without `same_pixels_as`."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"case_id": job.case_id, "status": str(outcome.status), "ct": _text(job.ct)}
    row |= {"mask": _text(job.mask) or None, "series_uid": job.series_uid or None}
    row |= {"code": outcome.code or None, "message": outcome.message or None, "next_step": outcome.remedy or None}
    row["research_use"] = RESEARCH_USE_ONLY
    row["files"] = " ".join(outcome.files) or None
    row |= {name: value for name, value in outcome.acquisition.items() if name in row}
    if outcome.status is Status.OK:
        row |= _answer(outcome.document)
    level = outcome.document.get("level")
    if level:
        row["measured_vertebra"] = level["used_as"]
        row["level_in_doubt"] = bool(level["doubts"])
    return {name: _rounded(name, value) for name, value in row.items()}


def _answer(document: Mapping[str, Any]) -> dict[str, Any]:
    core, notes = document["attenuation"], document["quality"]
    return {
        "t_score_class": document["t_score_class"],
        **{f"p_{name}": value for name, value in document["probabilities"].items()},
        **{f"logit_{name}": value for name, value in document["logits"].items()},
        "prediction_set": " ".join(document["prediction_set"] or ()) or None,
        "hu_mean": core["mean_hu"],
        "hu_median": core["median_hu"],
        "hu_sd": core["sd_hu"],
        "roi_voxels": core["voxels"],
        "roi_ml": core["volume_ml"],
        "l1_volume_ml": document["l1"]["volume_ml"],
        "warnings": _codes(notes, "warning"),
        "notes": _codes(notes, "info"),
        "model": document["model"]["name"],
        "weights_sha256": document["model"]["sha256"],
    }


def _codes(notes: Sequence[Mapping[str, str]], severity: str) -> str | None:
    return " ".join(sorted({note["code"] for note in notes if note["severity"] == severity})) or None


def _rounded(name: str, value: Any) -> Any:
    if value is None or name not in DIGITS:
        return value
    return round(float(value), DIGITS[name]) + 0.0  # no negative zero


def _text(path: str) -> str:
    """A path as text; bytes that are no UTF-8 as \\xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in DIGITS:
        return f"{value:.{DIGITS[name]}f}"
    if name in YES_NO:
        return "true" if value else "false"
    return str(value)


def _write_csv(path: Path, found: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in found:
            writer.writerow([_shown(name, row[name]) for name in COLUMNS])


def _write_parquet(path: Path, found: Iterable[Mapping[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    types = dict.fromkeys(COLUMNS, pyarrow.string())
    types |= dict.fromkeys(DIGITS, pyarrow.float64())
    types |= dict.fromkeys(WHOLE, pyarrow.int64()) | dict.fromkeys(YES_NO, pyarrow.bool_())
    schema = pyarrow.schema([(name, types[name]) for name in COLUMNS])
    with parquet.ParquetWriter(path, schema, version="2.6", compression="zstd") as writer:
        for group in _groups(found, ROWS_A_GROUP):
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def _groups(found: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in found:
        group.append(dict(row))
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _replace(path: Path, write: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
