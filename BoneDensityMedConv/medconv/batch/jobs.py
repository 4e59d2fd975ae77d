"""The nouns of a batch: what a case is, what became of it, who works on it. Plain types that any process can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class Status(StrEnum):
    """How a case ended."""

    OK = "ok"
    REFUSED = "refused"  # the input can't carry an answer; `code` says why
    FAILED = "failed"  # the program or the computer failed; `code` says how
    SET_ASIDE = "set_aside"  # it ended its worker process too often to be tried again


STATUS_WORDS: Mapping[Status, str] = {
    Status.OK: "answered",
    Status.REFUSED: "refused",
    Status.FAILED: "failed",
    Status.SET_ASIDE: "set aside",
}


@dataclass(frozen=True)
class BatchJob:
    """One CT to answer.

    case_id: unique in the batch, safe as a file name, the same whenever the same input is listed.
    ct: absolute path of a file, or of the folder of a DICOM series. series_uid, files: of a DICOM series.
    mask: absolute path of a label map; "" lets the segmenter find L1. label, label_map: how to read it, as for predict.
    fingerprint: sizes and modification times of its files; another one is another case.
    """

    case_id: str
    ct: str
    series_uid: str = ""
    files: tuple[str, ...] = ()
    mask: str = ""
    label: int | None = None
    label_map: str = ""
    fingerprint: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> BatchJob:
        return BatchJob(**{**fields, "files": tuple(fields.get("files", ()))})


@dataclass(frozen=True)
class CaseOutcome:
    """What became of a case.

    document: of result.json, without what varies between runs (times); empty if there is none.
    code, message, remedy: of a refusal or failure.
    pixels: SHA-256 of the voxels, grid, acquisition and mask that the answer rests on; "" where they could not be read.
    acquisition: what the file says about how the CT was made (kvp, kernel, ...), of `types.Acquisition`.
    files: what was written, relative to the batch's folder.
    measured: seconds by stage and peak memory; details: where the program failed. Only here stands what may differ
        between runs.
    """

    case_id: str
    status: Status
    document: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    message: str = ""
    remedy: str = ""
    pixels: str = ""
    acquisition: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    measured: Mapping[str, float] = field(default_factory=dict)
    details: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"status": str(self.status)}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> CaseOutcome:
        changed = {"status": Status(fields["status"]), "files": tuple(fields.get("files", ()))}
        return CaseOutcome(**{**fields, **changed})


@dataclass(frozen=True)
class Started:
    """A worker has begun with a case."""

    case_id: str
    worker: str


@dataclass(frozen=True)
class Done:
    """A case has an outcome."""

    outcome: CaseOutcome


@dataclass(frozen=True)
class Crashed:
    """The process that worked on a case ended without an answer. `code`, `message`: why, as far as it can be told."""

    case_id: str
    code: str
    message: str


class Crew(Protocol):
    """Who works on cases: local processes or a cluster. Retrying and setting aside is not its business.

    room: so many cases are worth having submitted at a time; more would only wait.
    """

    @property
    def room(self) -> int: ...

    def submit(self, job: BatchJob) -> None:
        """Hand over a case; it is begun as soon as somebody is free."""

    def events(self) -> Iterator[Started | Done | Crashed | None]:
        """What happens, as it happens, until all that was submitted has ended; None at least once a second."""

    def close(self) -> None:
        """End all work at once and let go of everything. Safe to call more than once."""


# Columns of the table, in order. Floats are written with a fixed number of digits (table.py).
COLUMNS: tuple[str, ...] = (
    "case_id", "status", "code", "t_score_class", "p_normal", "p_osteopenia", "p_osteoporosis", "prediction_set",
    "logit_normal", "logit_osteopenia", "logit_osteoporosis", "hu_mean", "hu_median", "hu_sd", "roi_voxels", "roi_ml",
    "l1_volume_ml", "measured_vertebra", "level_in_doubt", "kvp", "kernel", "slice_thickness_mm", "contrast_agent",
    "warnings", "notes", "model", "weights_sha256", "same_pixels_as", "message", "next_step", "ct",
    "mask", "series_uid", "files", "research_use",
)  # fmt: skip
