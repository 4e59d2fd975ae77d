"""A simulated cohort as a folder: CTs, masks, labels and all that is hidden, finished after a kill.

What is in a file depends on the settings alone, and every file appears whole or not at all. So the same command
finishes what is missing, and the folder is then the same, byte for byte, as one that was never disturbed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medconv import RESEARCH_USE_ONLY, __version__
from medconv.simulate.cohort_plan import SPLITS, CohortPlan, Member, members
from medconv.simulate.cohort_sheets import write_labels, write_truth
from medconv.simulate.nifti import UNFINISHED, write_nifti
from medconv.simulate.stopwatch import Stopwatch
from medconv.simulate.template import fingerprint
from medconv.types import TScoreClass, UsageError
from medconv.vertebrae import TOTALSEGMENTATOR
from medconv.volume_io import SIMULATED_MARK

SETTINGS_FILE, LABELS_FILE, TRUTH_FILE, MASKS = "cohort.json", "labels.xlsx", "truth.csv", "masks"
FORMAT = 1  # of the voxels and the sheets: another number, another cohort


@dataclass(frozen=True)
class ImageSettings:
    """What is rendered of each person. field_of_view_mm: lowest and highest point of a whole CT above L1's centre."""

    crops_only: bool = False
    perfect_masks: bool = False
    field_of_view_mm: tuple[float, float] = (-95.0, 85.0)


@dataclass(frozen=True)
class Job:
    """One patient's CT and mask, as a worker process gets it."""

    out: Path
    member: Member
    image: ImageSettings

    @property
    def ct(self) -> Path:
        return split_folder(self.out, self.member.split) / f"{self.member.subject_id}.nii.gz"

    @property
    def mask(self) -> Path:
        return self.out / MASKS / f"{self.member.subject_id}.nii.gz"


def open_cohort(out: Path, plan: CohortPlan, image: ImageSettings) -> list[Job]:
    """Make or claim the folder; returns all jobs of the cohort.

    Raises UsageError if the folder holds something else, or a cohort of other settings.
    """
    everybody = members(plan)
    document = cohort_document(plan, image, everybody)
    claim(out, document)
    for split in {member.split for member in everybody}:
        split_folder(out, split).mkdir(exist_ok=True)
    (out / MASKS).mkdir(exist_ok=True)
    remove_unfinished(out)
    return [Job(out, member, image) for member in everybody]


def split_folder(out: Path, split: str) -> Path:
    """Where the CTs of a split lie."""
    from medconv.training.cohorts.cases import SPLIT_FOLDERS

    return out / SPLIT_FOLDERS[split]


def remove_unfinished(out: Path) -> None:
    """Take away what a killed run left half written."""
    for left in out.rglob(f"{UNFINISHED}*"):
        left.unlink(missing_ok=True)


def missing(jobs: list[Job]) -> list[Job]:
    """Whose CT is not there yet; a CT is written after its mask."""
    return [job for job in jobs if not (job.ct.exists() and job.mask.exists())]


def run_job(job: Job) -> Mapping[str, float]:
    """Simulate and write one patient; returns CPU seconds by stage."""
    watch = Stopwatch()
    person, image = job.member.person, job.image
    if image.crops_only:
        from medconv.simulate.l1_case import person_l1_case

        case = person_l1_case(person, perfect_mask=image.perfect_masks, watch=watch)
        ct, labels = case.ct, case.mask_zyx.astype("uint8") * TOTALSEGMENTATOR["L1"]
    else:
        from medconv.simulate.person_ct import person_ct

        shown = person_ct(person, image.field_of_view_mm, perfect_masks=image.perfect_masks, watch=watch)
        ct, labels = shown.ct, shown.labels_zyx
    write_nifti(job.mask, labels, ct.geometry)
    write_nifti(job.ct, ct.array_zyx, ct.geometry, SIMULATED_MARK)
    watch.lap("compressing and writing")
    return watch.seconds


def finish(out: Path, jobs: list[Job]) -> None:
    """The sheets, when every CT is there: a folder without labels.xlsx is not complete."""
    everybody = [job.member for job in jobs]
    write_truth(out / TRUTH_FILE, everybody)
    write_labels(out / LABELS_FILE, everybody, TOTALSEGMENTATOR["L1"])


def claim(out: Path, document: Mapping[str, Any]) -> None:
    """Write cohort.json, or compare with the one that is there. Raises UsageError."""
    if out.is_file():
        raise UsageError("out_is_a_file", f"{out} is a file, not a folder.", "Choose another folder.")
    file = out / SETTINGS_FILE
    text = json.dumps(document, indent=1) + "\n"
    if file.exists():
        _same_settings(file, json.loads(text))
        return
    if out.exists() and any(not p.name.startswith(UNFINISHED) for p in out.iterdir()):
        raise UsageError(
            "folder_not_empty",
            f"{out} holds files, but no cohort of 'medconv simulate' (there is no {SETTINGS_FILE}).",
            "Choose an empty or a new folder.",
        )
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"{UNFINISHED}{SETTINGS_FILE}"
    partial.write_text(text, "utf-8")
    partial.replace(file)


def _same_settings(file: Path, wanted: Mapping[str, Any]) -> None:
    try:
        old = _decisive(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError("not_a_cohort", f"{file} is none of 'medconv simulate'.", "Choose another folder.") from error
    new = _decisive(wanted)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        told = "; ".join(f"{name} {old.get(name)} (asked for: {new.get(name)})" for name in names)
        raise UsageError(
            "cohort_of_other_settings",
            f"{file.parent} holds a cohort made with other settings: {told}.",
            "Give the settings it was begun with, or choose another folder.",
        )


def _decisive(document: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the voxels, by dotted name."""
    return dict(_flat("", {"version": document["version"], "format": document["format"], **document["settings"]}))


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), part)
    else:
        yield prefix, value


def cohort_document(plan: CohortPlan, image: ImageSettings, everybody: list[Member]) -> dict[str, Any]:
    """cohort.json: what the cohort was made from, who is in it, and the best that any reader can score on it."""
    model = plan.persons.model
    counts = {
        split: {c.value: sum(m.split == split and m.t_class is c for m in everybody) for c in TScoreClass}
        for split in SPLITS
    }
    totals = {c: sum(m.t_class is c for m in everybody) for c in TScoreClass}
    present = {c: count / len(everybody) for c, count in totals.items()}
    even = {c: 1 / len(TScoreClass) for c in TScoreClass}
    settings: dict[str, Any] = {"plan": asdict(plan), "image": asdict(image)}
    # Where templates lie, and what they are called, decides nothing and may name a patient.
    settings["plan"]["persons"]["templates"] = fingerprint([Path(file) for file in plan.persons.templates])
    return {
        "kind": "simulated cohort",
        "research_use": RESEARCH_USE_ONLY,
        "format": FORMAT,
        "version": __version__,
        "reference": "simulated",
        "seed": plan.persons.seed,
        "patients": len(everybody),
        "classes": {c.value: count for c, count in totals.items()},
        "splits": counts,
        "model": asdict(model),
        "bayes_ceiling": {
            "population": _ceiling(plan, model.class_prior()),
            "cohort": _ceiling(plan, present),
            "class_balanced": _ceiling(plan, even),
        },
        "settings": json.loads(json.dumps(settings)),
    }


def _ceiling(plan: CohortPlan, prior: Mapping[TScoreClass, float]) -> dict[str, Any]:
    """With null for an AUC that is not defined."""
    ceiling = asdict(plan.persons.model.bayes_ceiling(prior=prior))
    own = {name: None if math.isnan(value) else value for name, value in ceiling.items()}
    return {"prior": {c.value: share for c, share in prior.items()}} | own
