"""Cases from a CSV file: a row a case, headings as people write them, paths relative to the file."""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
A_TYPO = 0.75  # similarity (difflib) from which a heading is taken for a misspelt one: 'maks' and 'mask' have just that
TOLD_AT_ONCE = 10


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


@dataclass(frozen=True)
class CaseList:
    """A CSV with a row a case: comma, semicolon or tab; UTF-8 or Windows-1252.

    ignored: headings of columns that mean nothing here.
    """

    file: Path
    text: str
    delimiter: str
    columns: Mapping[str, int]
    ignored: tuple[str, ...]

    def rows(self) -> Iterator[Row]:
        """Goes through the list twice: all that is wrong in it is told before the first row is taken.

        Raises UsageError with the lines, the first ten.
        """
        problems, first = [], dict[str, Row]()
        for line, told in self._cells():
            found = list(_problems_of(self.file, told))
            if not found:
                row = _row(self.file, line, told)
                name = row.case_id.casefold() or f"{row.ct}\n{row.series_uid}"
                earlier = first.setdefault(name, row)
                if replace(earlier, line=line) != row:  # the same once more counts once
                    found = [_named_twice(row, earlier)]
            problems += [f"line {line}: {problem}" for problem in found]
        if problems:
            raise _wrong(self.file, problems)
        for line, told in self._cells():
            yield _row(self.file, line, told)

    def _cells(self) -> Iterator[tuple[int, Mapping[str, str]]]:
        """Line number, and the cells by column."""
        rows = csv.reader(io.StringIO(self.text, newline=""), delimiter=self.delimiter)
        next(rows, None)
        for values in rows:
            if any(value.strip() for value in values):
                told = {name: values[at].strip() if at < len(values) else "" for name, at in self.columns.items()}
                yield rows.line_num, told


def read_list(file: Path) -> CaseList:
    """Raises UsageError for a list without CTs, or with a heading that is a known one misspelt."""
    text = _text(file)
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    headings = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    columns = _columns(file, headings)
    ignored = tuple(heading for at, heading in enumerate(headings) if heading.strip() and at not in columns.values())
    return CaseList(file, text, delimiter, columns, ignored)


def _problems_of(file: Path, told: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the cells of one row."""
    if not told["ct"]:
        yield "there is no CT"
    label = told.get("label", "")
    if label and not re.fullmatch(r"[0-9]+([.,]0+)?", label):
        yield f"the label '{label}' is no whole number"
    if label and told.get("label_map"):
        yield "label and label_map both name L1's label; give one"
    for column in ("ct", "mask"):
        path = told.get(column, "")
        if "\\" in path and os.sep == "/" and not _absolute(file, path).exists():
            yield f"the path of the {column} has backslashes, as Windows writes them; here folders are separated by /"


def _row(file: Path, line: int, told: Mapping[str, str]) -> Row:
    label, label_map = told.get("label", ""), told.get("label_map", "")
    if label_map.lower().endswith(".json"):
        label_map = str(_absolute(file, label_map))
    return Row(
        line,
        _absolute(file, told["ct"]),
        _absolute(file, told["mask"]) if told.get("mask") else None,
        int(float(label.replace(",", "."))) if label else None,
        label_map,
        told.get("series_uid", ""),
        told.get("case_id", ""),
    )


def _named_twice(row: Row, earlier: Row) -> str:
    if row.case_id:
        return f"case_id '{row.case_id}' stands also in line {earlier.line}, which says something else"
    return f"the CT of line {earlier.line} again, to be read otherwise: give each a case_id"


def _columns(file: Path, headings: list[str]) -> dict[str, int]:
    plain = [re.sub(r"[\s_\-]", "", heading).lower() for heading in headings]
    found = {
        column: next(plain.index(name) for name in names if name in plain)
        for column, names in HEADINGS.items()
        if any(name in plain for name in names)
    }
    typos = [
        f"'{heading}' (meant: {meant}?)"
        for heading, name in zip(headings, plain, strict=True)
        if not _is_made_of_words(heading) and (meant := _misspelt(name, found))
    ]
    if typos:
        raise UsageError(
            "list_heading",
            f"{file.name} has an unknown heading: {', '.join(typos)}.",
            f"Name the columns {', '.join(HEADINGS)}; other columns may have any name that is not nearly one of these.",
        )
    if "ct" not in found:
        raise UsageError(
            "list_without_ct",
            f"{file.name} has no column 'ct' (its headings: {', '.join(headings) or 'none'}).",
            "Name the column with the CTs 'ct'; others are mask, label, label_map, series_uid and case_id.",
        )
    return found


def _is_made_of_words(heading: str) -> bool:
    """True for one like series_date or subject name: it holds a known heading's word, and means another thing."""
    words = re.split(r"[\s_\-.]+", heading.strip().lower())
    return len(words) > 1 and any(word in names for word in words for names in HEADINGS.values())


def _misspelt(heading: str, found: Mapping[str, int]) -> str:
    """The column that a heading nearly names, if the list has no such column; else ""."""
    known = {name: column for column, names in HEADINGS.items() for name in names}
    if heading in known:
        return ""
    near = difflib.get_close_matches(heading, known, n=3, cutoff=A_TYPO)
    wanted = (known[name] for name in near if name[0] == heading[0])  # 'age' is near 'image', and means another thing
    return next((column for column in wanted if column not in found), "")


def _absolute(file: Path, text: str) -> Path:
    return Path(os.path.normpath(file.absolute().parent / Path(text).expanduser()))


def _text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _wrong(file: Path, problems: list[str]) -> UsageError:
    more = len(problems) - TOLD_AT_ONCE
    told = "; ".join(problems[:TOLD_AT_ONCE]) + (f"; and {more} more" if more > 0 else "")
    return UsageError("list_line", f"{file.name}, {told}.", "Correct the list.")
