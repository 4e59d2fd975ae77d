"""labels.xlsx as a hospital would keep it, and truth.csv with everything that is hidden; the same bytes every time."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from medconv.packages import how_to_install
from medconv.simulate.cohort_plan import Member
from medconv.simulate.nifti import partial_path
from medconv.types import MissingRequirement

COLUMNS = ("SubjectID", "T-score", "Class", "PatientID", "kVp", "Scanner", "Label")
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # a zip archive's earliest
PROPERTIES = "docProps/core.xml"
DATE_IN_PROPERTIES = re.compile(rb"(<dcterms:(?:created|modified)[^>]*>)[^<]*")


def write_labels(path: Path, everybody: Sequence[Member], label: int) -> None:
    """One row a patient. `label`: L1's number in the masks. Raises MissingRequirement without openpyxl."""
    require_openpyxl()
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "labels"
    sheet.append(COLUMNS)
    for member in everybody:
        person = member.person
        row = (person.patient.t_score, member.t_class.value, member.subject_id, person.scan.kvp, person.scanner)
        sheet.append((member.subject_id, *row, label))
    draft = io.BytesIO()
    book.save(draft)
    partial = partial_path(path)
    # openpyxl stamps the time into the properties and into every entry of the archive.
    with zipfile.ZipFile(draft) as dated, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as undated:
        for name in sorted(dated.namelist()):
            content = dated.read(name)
            if name == PROPERTIES:
                content = DATE_IN_PROPERTIES.sub(rb"\g<1>1980-01-01T00:00:00Z", content)
            undated.writestr(zipfile.ZipInfo(name, ZIP_DATE), content, zipfile.ZIP_DEFLATED)
    partial.replace(path)


def write_truth(path: Path, everybody: Sequence[Member]) -> None:
    """Every hidden variable, one patient a row."""
    rows = [
        {"SubjectID": m.subject_id, "split": m.split, "class": m.t_class.value, **m.person.truth()} for m in everybody
    ]
    partial = partial_path(path)
    with partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def require_openpyxl() -> None:
    """Raises MissingRequirement if labels.xlsx could not be written."""
    try:
        import openpyxl  # noqa: F401
    except ImportError as error:
        raise MissingRequirement(
            "openpyxl_missing",
            "labels.xlsx needs the package openpyxl.",
            how_to_install("train"),
        ) from error
