"""Spreadsheets as plain tables of cells: .xlsx through openpyxl, .csv as Excel of any country writes it.

Nothing is interpreted here; `label_sheet` does that.
"""

from __future__ import annotations

import csv
import io
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medconv.packages import how_to_install
from medconv.types import InputRefused, MissingRequirement

SEPARATORS = (",", ";", "\t")
EXPECTED = "Expected an .xlsx workbook or a .csv file."


@dataclass(frozen=True)
class Table:
    """The cells of one sheet; `rows[i]` is the sheet's row i + 1. `name` is empty for a CSV file, which has one."""

    name: str
    rows: tuple[tuple[Any, ...], ...]


def read_tables(path: Path) -> list[Table]:
    """Every sheet that holds anything. Raises InputRefused (missing, unreadable), MissingRequirement (openpyxl)."""
    if not path.is_file():
        raise InputRefused("labels_missing", f"There is no label sheet {path.name}.", EXPECTED, str(path))
    ending = path.suffix.lower()
    if ending not in (".xlsx", ".xlsm", ".csv", ".tsv", ".txt"):
        raise InputRefused(
            "labels_unreadable", f"{path.name} is no label sheet that can be read.", f"{EXPECTED} Save it as .xlsx."
        )
    tables = _read_workbook(path) if ending.startswith(".xls") else [_read_text(path)]
    tables = [Table(table.name, _without_empty_end(table.rows)) for table in tables]
    tables = [table for table in tables if table.rows]
    if not tables:
        raise InputRefused("labels_empty", f"The label sheet {path.name} is empty.", "Fill it, or give another one.")
    return tables


def _read_workbook(path: Path) -> list[Table]:
    try:
        import openpyxl
    except ImportError as error:
        raise MissingRequirement(
            "openpyxl_missing",
            "Reading .xlsx needs the package openpyxl.",
            f"Save the sheet as .csv, or install it. {how_to_install('train')}",
        ) from error
    try:
        with warnings.catch_warnings():  # of styles and drop-down lists, which don't matter here
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            tables = []
            for sheet in book.worksheets:
                sheet.reset_dimensions()  # some programs write a wrong size, and rows would be missed
                tables.append(Table(sheet.title, tuple(tuple(row) for row in sheet.iter_rows(values_only=True))))
            book.close()
            return tables
    except (
        OSError,
        KeyError,
        ValueError,
        TypeError,
        zipfile.BadZipFile,
        openpyxl.utils.exceptions.InvalidFileException,
    ) as error:
        raise InputRefused(
            "labels_unreadable",
            f"{path.name} can't be read as an .xlsx workbook: damaged, protected by a password, or of another format.",
            "Open it in a spreadsheet program and save it as .xlsx or .csv without a password.",
        ) from error


def _read_text(path: Path) -> Table:
    text = _decoded(path.read_bytes())
    first, _, rest = text.partition("\n")
    separator = ""
    if first.strip().lower().startswith("sep="):  # Excel's own hint; the line counts as a row
        separator = first.strip()[4:] or ","
        text = "\n" + rest
    separator = separator or _separator(text)
    return Table("", tuple(tuple(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator)))


def _decoded(content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")  # what Excel writes as plain "CSV"


def _separator(text: str) -> str:
    """The separator that occurs most in the first line that has one; decimal commas don't stand in a heading."""
    for line in text.splitlines():
        counts = {separator: line.count(separator) for separator in SEPARATORS}
        if any(counts.values()):
            return max(SEPARATORS, key=lambda separator: counts[separator])
    return SEPARATORS[0]


def is_empty(cell: Any) -> bool:
    """True for a cell with nothing, or with spaces only."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _without_empty_end(rows: tuple[tuple[Any, ...], ...]) -> tuple[tuple[Any, ...], ...]:
    last = max((i for i, row in enumerate(rows) if not all(is_empty(cell) for cell in row)), default=-1)
    return rows[: last + 1]
