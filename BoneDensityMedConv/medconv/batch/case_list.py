"""Cases from a CSV file: a row a case, headings as people write them, paths relative to the file."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medconv.types import UsageError

# Column → headings that mean it, in small letters without blanks, hyphens and underscores.
HEADINGS: Mapping[str, tuple[str, ...]] = {
    "ct": (
        "ct",
        "ctpath",
        "ctfile",
        "image",
        "imagepath",
        "img",
        "path",
        "file",
        "filename",
        "scan",
        "volume",
        "dicom",
    ),
    "mask": ("mask", "maskpath", "maskfile", "seg", "segmentation", "l1mask", "labelmapfile", "labels"),
    "label": ("label", "l1label", "labelvalue", "masklabel"),
    "label_map": ("labelmap", "numbering"),
    "series_uid": ("seriesuid", "seriesinstanceuid", "series"),
    "case_id": ("caseid", "case", "id", "name", "subject", "subjectid"),
}


@dataclass(frozen=True)
class Row:
    """One case of the list; what is not said is empty."""

    line: int
    ct: Path
    mask: Path | None
    label: int | None
    label_map: str
    series_uid: str
    case_id: str


def read_list(file: Path) -> Iterator[Row]:
    """The rows of a CSV (comma, semicolon or tab; UTF-8 or Windows-1252). Raises UsageError that names the line."""
    text = _text(file)
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = _columns(file, next(rows, []))
    named: dict[str, int] = {}
    for values in rows:
        if not any(value.strip() for value in values):
            continue
        told = {name: values[at].strip() if at < len(values) else "" for name, at in columns.items()}
        row = _row(file, rows.line_num, told)
        if row.case_id and named.setdefault(row.case_id.casefold(), row.line) != row.line:
            raise _wrong(file, row.line, f"case_id '{row.case_id}' stands also in line {named[row.case_id.casefold()]}")
        yield row


def _row(file: Path, line: int, told: Mapping[str, str]) -> Row:
    if not told["ct"]:
        raise _wrong(file, line, "there is no CT")
    label = told.get("label", "")
    if label and not re.fullmatch(r"[0-9]+(\.0+)?", label):
        raise _wrong(file, line, f"the label '{label}' is no whole number")
    label_map = told.get("label_map", "")
    if label and label_map:
        raise _wrong(file, line, "label and label_map both name L1's label; give one")
    if label_map.lower().endswith(".json"):
        label_map = str(_absolute(file, label_map))
    return Row(
        line,
        _absolute(file, told["ct"]),
        _absolute(file, told["mask"]) if told.get("mask") else None,
        int(float(label)) if label else None,
        label_map,
        told.get("series_uid", ""),
        told.get("case_id", ""),
    )


def _columns(file: Path, headings: list[str]) -> dict[str, int]:
    plain = [re.sub(r"[\s_\-]", "", heading).lower() for heading in headings]
    found = {
        column: next(plain.index(name) for name in names if name in plain)
        for column, names in HEADINGS.items()
        if any(name in plain for name in names)
    }
    if "ct" not in found:
        raise UsageError(
            "list_without_ct",
            f"{file.name} has no column 'ct' (its headings: {', '.join(headings) or 'none'}).",
            "Name the column with the CTs 'ct'; others are mask, label, label_map, series_uid and case_id.",
        )
    return found


def _absolute(file: Path, text: str) -> Path:
    return Path(os.path.normpath(file.absolute().parent / Path(text).expanduser()))


def _text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _wrong(file: Path, line: int, what: str) -> UsageError:
    return UsageError("list_line", f"{file.name}, line {line}: {what}.", "Correct the list.")
