"""What a batch works on: folders of CT files, CSV lists and DICOM trees, in any mixture, as a sorted list of cases."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medconv.batch.case_ids import LIST_ENDINGS, case_id_of, names_of, series_id_of
from medconv.batch.case_list import Row, read_list
from medconv.batch.dicom_scan import DicomScan, Part
from medconv.batch.folder_walk import FileFacts, FolderWalk, fingerprint, stamp_of
from medconv.batch.job_list import JobList
from medconv.batch.jobs import BatchJob
from medconv.batch.mask_rules import STRUCTURES_FOLDER, Mask, MaskRule, is_image, is_mask_name, rule_for
from medconv.types import UsageError

DICOM_MEMORY = "dicom.jsonl"
NAMED_LIKE_MASKS, EMPTY_FOLDERS = "image files named like masks", "empty folders"
VOXEL_ENDINGS = (".raw", ".zraw")  # of a MetaImage's other file


@dataclass
class Findings:
    """What was found beside the cases. skipped: counts by what they are. unreadable: folders.

    others: files that are neither images nor DICOM, by the ending of their names. ignored_columns: headings of lists.
    """

    skipped: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    ignored_columns: list[str] = field(default_factory=list)
    with_mask: int = 0


@dataclass
class CaseFinder:
    """Lists cases into `jobs`.

    out: the batch's folder, never searched itself; it keeps what DICOM headers said. say: what is being done.
    """

    rule: MaskRule
    out: Path
    jobs: JobList
    threads: int = 2
    say: Callable[[str], None] = lambda text: None
    findings: Findings = field(default_factory=Findings)

    def find(self, inputs: Sequence[Path]) -> Findings:
        """List every case of the inputs. Raises UsageError for an input that is not there or a list with an error."""
        names = names_of(_root_of(given) for given in inputs)
        for given in inputs:
            self.say(f"Listing {given}")
            within = names[_root_of(given)]
            if given.is_dir():
                self._take_folder(given, within)
            elif given.is_file() and _is_list(given):
                listed = read_list(given)
                self.findings.ignored_columns += listed.ignored
                for row in listed.rows():
                    self._add(_job_of(row, given, self.rule, within))
            elif given.is_file() and is_image(given.name):
                self._add(_job_of_file(given, given.parent, self.rule, within))
            else:
                what = "is no CT, list or folder" if given.exists() else "does not exist"
                raise UsageError(
                    "input_unusable",
                    f"{given} {what}.",
                    "Give a folder with CTs (NIfTI, NRRD, MetaImage or DICOM), one such file, or a CSV list.",
                )
        self.jobs.close_list()
        return self.findings

    def _add(self, job: BatchJob) -> None:
        self.findings.with_mask += bool(job.mask)
        self.jobs.add(job)

    def _take_folder(self, root: Path, within: str) -> None:
        rule = rule_for(root, self.rule)
        left_out = {os.path.realpath(path) for path in (self.out, rule.folder) if path is not None}
        left_out.discard(os.path.realpath(root))
        walk = FolderWalk(root, left_out)
        scan = DicomScan(self.out / "listing" / DICOM_MEMORY, self.threads)
        scan.scan(
            self._without_images(walk, root, rule, within), lambda n: self.say(f"Reading DICOM headers: {n} folders")
        )
        for uid, parts in scan.series():
            self._add(_job_of_series(uid, parts, root, rule, within))
        self.findings.skipped.update(scan.skipped + Counter({EMPTY_FOLDERS: walk.empty}))
        self.findings.others.update({end: n for end, n in scan.others.items() if end not in VOXEL_ENDINGS})
        self.findings.unreadable += walk.unreadable

    def _without_images(
        self, walk: FolderWalk, root: Path, rule: MaskRule, within: str
    ) -> Iterator[tuple[Path, list[FileFacts]]]:
        """Take the CT files out of each folder, and hand on what is left."""
        for folder, files in walk:
            structures = STRUCTURES_FOLDER in folder.relative_to(root).parts
            images = [file for file in files if is_image(file.name)]
            for file in images:
                if structures or is_mask_name(file.name):
                    self.findings.skipped[NAMED_LIKE_MASKS] += 1
                else:
                    self._add(_job_of_file(folder / file.name, root, rule, within))
            yield folder, [file for file in files if not is_image(file.name)]


def _is_list(given: Path) -> bool:
    return given.suffix.lower() in LIST_ENDINGS


def _root_of(given: Path) -> Path:
    """Where the names of an input's cases begin; a list's begin with itself."""
    return given if given.is_dir() or _is_list(given) else given.parent


def _job_of_file(ct: Path, root: Path, rule: MaskRule, within: str) -> BatchJob:
    return _with_mask(BatchJob(case_id_of(ct.relative_to(root), within), str(ct)), rule.mask_of(ct, root), [ct])


def _job_of_series(uid: str, parts: Sequence[Part], root: Path, rule: MaskRule, within: str) -> BatchJob:
    parts = sorted(parts, key=lambda part: part.folder)
    folder = Path(os.path.commonpath([part.folder for part in parts]))
    files = [str(Path(part.folder) / file.name) for part in parts for file in part.files]
    ct, listed = (files[0], ()) if len(files) == 1 else (str(folder), tuple(files))
    case_id = series_id_of(uid, folder.relative_to(root) if folder != root else root.name, within)
    mask = rule.mask_of(folder, root, uid)
    stamps = "".join(stamp_of(part.files, part.folder) for part in parts)
    return _with_mask(BatchJob(case_id, ct, uid, listed), mask, [], stamps)


def _job_of(row: Row, file: Path, rule: MaskRule, within: str) -> BatchJob:
    mask = Mask()
    if row.mask is not None:
        mask = rule.read_as(row.mask)
        if row.label is not None or row.label_map:
            mask = Mask(str(row.mask), row.label, row.label_map)
    elif rule.folder is not None or rule.beside:
        mask = rule.mask_of(row.ct, row.ct.parent, row.series_uid)
    relative = os.path.relpath(row.ct, file.absolute().parent)
    name = row.case_id or row.series_uid or "/".join(part for part in Path(relative).parts if part not in ("..", "/"))
    return _with_mask(BatchJob(case_id_of(name, within), str(row.ct), row.series_uid), mask, [row.ct])


def _with_mask(job: BatchJob, mask: Mask, files: Sequence[Path], stamps: str = "") -> BatchJob:
    """The job with its mask, and the fingerprint of all its files and of how they are to be read."""
    paths = [*files, *([Path(mask.path)] if mask.path else [])]
    if mask.label_map.lower().endswith(".json"):
        paths.append(Path(mask.label_map))
    how = f"{mask.label}\n{mask.label_map}\n{job.series_uid}"
    told = fingerprint(paths) + stamp_of([], f"{stamps}\n{how}")[:16]
    return replace(job, mask=mask.path, label=mask.label, label_map=mask.label_map, fingerprint=told)
