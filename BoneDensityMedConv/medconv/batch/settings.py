"""Everything that a batch's answers depend on besides its CTs, kept in its folder: other settings, another folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from medconv import RESEARCH_USE_ONLY, report, runtimes
from medconv.segmenter import NNUNET, TOTALSEGMENTATOR, SegmenterRequest
from medconv.types import Adjustment, UsageError

SETTINGS_FILE = "batch.json"
VERSIONS = "versions."
FORMAT = 2  # of ledger, table and case ids: another number, another folder
SEGMENTER_PACKAGES: Mapping[str, tuple[str, ...]] = {
    TOTALSEGMENTATOR: ("TotalSegmentator", "nnunetv2"),
    NNUNET: ("nnunetv2",),
}


@dataclass(frozen=True)
class BatchSettings:
    """What is decided once, when a folder is started. Plain JSON types, so that any process can have them.

    inputs, masks: absolute paths. label, label_map: which label is L1, as for predict; label_map_sha256: of a
        label map that is a file.
    weights: a name, or an absolute path. device, runtime: never "auto": what was chosen when the folder was started,
        because another runtime differs in the last digits.
    segmenter: the fields of `SegmenterRequest`; empty if L1 is always given. reports, dicom: what is written of a case.
    versions: of the packages that take part in an answer, those of runtime and segmenter among them.
    """

    inputs: tuple[str, ...] = ()
    masks: str = ""
    label: int | None = None
    label_map: str = ""
    label_map_sha256: str = ""
    weights: str = ""
    weights_sha256: str = ""
    device: str = "cpu"
    runtime: str = ""
    adjustment: Mapping[str, Any] = field(default_factory=dict)
    segmenter: Mapping[str, Any] = field(default_factory=dict)
    reports: bool = False
    dicom: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of all of them."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode("ascii")).hexdigest()

    def with_versions(self) -> BatchSettings:
        """With the versions that this computer has; of a runtime that is "auto", none."""
        return replace(self, versions=versions_here(self.runtime, self.segmenter.get("kind", "")))

    def adjusted_by(self) -> Adjustment:
        return Adjustment(**self.adjustment)

    def segmenter_request(self) -> SegmenterRequest | None:
        return SegmenterRequest(**self.segmenter) if self.segmenter else None

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> BatchSettings:
        return BatchSettings(**{**fields, "inputs": tuple(fields["inputs"])})


def versions_here(runtime: str, segmenter: str) -> dict[str, str]:
    """Of the packages that take part in an answer; what is not installed is not there."""
    found = {name: told for name, told in report.versions().items() if name != "python"}
    for package in (*runtimes.PACKAGES.get(runtime, ()), *SEGMENTER_PACKAGES.get(segmenter, ())):
        if told := _version(package):
            found[package.lower()] = told
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # another distribution brings it: onnxruntime-gpu
        return next((version(name) for name in packages_distributions().get(package, ())), None)


def read_settings(folder: Path) -> BatchSettings | None:
    """The settings that the folder was started with; None for a new one. Raises UsageError if it can't be a batch's."""
    file = folder / SETTINGS_FILE
    if folder.is_file():
        raise UsageError("out_is_a_file", f"{folder} is a file, not a folder.", "Choose another --out.")
    if not file.exists():
        return None
    try:
        document = json.loads(file.read_text("ascii"))
        if document["format"] != FORMAT:
            raise UsageError(
                "batch_of_other_format",
                f"{folder} was written by another version of MedConv (format {document['format']}, here {FORMAT}).",
                "Go on with that version, or choose another --out.",
            )
        return BatchSettings.from_json(document["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError("not_a_batch", f"{file} is none of 'medconv batch'.", "Choose another --out.") from error


def write_settings(folder: Path, settings: BatchSettings) -> None:
    """Claim a folder for these settings."""
    document = {"kind": "medconv batch", "research_use": RESEARCH_USE_ONLY, "format": FORMAT}
    document |= {"digest": settings.digest, "settings": settings.to_json()}
    partial = folder / f".{SETTINGS_FILE}.partial"
    partial.write_text(json.dumps(document, indent=1) + "\n", "ascii")
    partial.replace(folder / SETTINGS_FILE)


def check_same(folder: Path, begun: BatchSettings, wanted: BatchSettings) -> None:
    """Raise UsageError that names every setting in which the two differ."""
    old, new = dict(_flat("", begun.to_json())), dict(_flat("", wanted.to_json()))
    names = sorted(name for name in {**old, **new} if old.get(name) != new.get(name))
    if not names:
        return
    packages = [name for name in names if name.startswith(VERSIONS)]
    asked = [f"{name} {old.get(name)} (asked for: {new.get(name)})" for name in names if name not in packages]
    if asked:
        raise UsageError(
            "batch_of_other_settings",
            f"{folder} holds a batch that was started with other settings: {'; '.join(asked)}.",
            "Give the settings that it was started with, or choose another --out.",
        )
    told = [
        f"{name.removeprefix(VERSIONS)} {old.get(name, 'none')} (here: {new.get(name, 'none')})" for name in packages
    ]
    raise UsageError(
        "batch_of_other_packages",
        f"{folder} holds a batch that was started with other packages: {'; '.join(told)}.",
        "Answers would differ in the last digits. Install the packages that it was started with, or choose another "
        "--out.",
    )


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), part)
    else:
        yield prefix, value
