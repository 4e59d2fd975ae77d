"""`medconv segmenters`: which segmenters are ready on this computer, and the weights of TotalSegmentator."""

from __future__ import annotations

import argparse
import contextlib
from importlib.metadata import PackageNotFoundError, version

from medconv import console
from medconv.packages import how_to_install
from medconv.segmenter import DEMONSTRATION, NNUNET, QUALITIES, TOTALSEGMENTATOR
from medconv.segmenters import weights_store
from medconv.segmenters.demonstration import find_demonstration_folder
from medconv.segmenters.weights_store import ALL, WeightsStatus
from medconv.types import MissingRequirement, UsageError
from medconv.worker_client import Done, Failure, WorkerClient

PACKAGES = {TOTALSEGMENTATOR: ("totalsegmentator", "nnunetv2"), NNUNET: ("nnunetv2",), DEMONSTRATION: ("nnunetv2",)}
INSTALL = how_to_install("segment")


def run_list(_: argparse.Namespace) -> int:
    """Print every segmenter, whether it is ready, and where its weights lie."""
    print("existing\n  ready       takes L1 from a mask: medconv predict CT --mask FILE --label N")
    print(f"{TOTALSEGMENTATOR}\n{_packages_line(TOTALSEGMENTATOR)}")
    for quality in QUALITIES:
        found = weights_store.status(quality)
        print(f"  {quality:<11} {_weights_line(found)}")
    print(f"  weights     {weights_store.usual_folder()}")
    print(f"nnunet:FOLDER\n{_packages_line(NNUNET)}\n  weights     any nnU-Net v2 model folder")
    print(f"{DEMONSTRATION}\n{_packages_line(DEMONSTRATION)}\n  weights     {_demonstration_line()}")
    print("  use         simulated CTs only: shows the whole chain, for no patient")
    return 0


def run_fetch(options: argparse.Namespace) -> int:
    """Fetch TotalSegmentator's weights once the person has agreed. Raises MissingRequirement, UsageError."""
    found = weights_store.status(options.quality)
    if found.complete:
        print(f"Nothing to fetch: {_weights_line(found)}")
        return 0
    missing = (*found.missing, *(name for name, _ in found.damaged))
    question = (
        f"Fetch {', '.join(missing)} (some hundred megabytes) from GitHub (wasserth/TotalSegmentator) "
        f"into {found.folder}?"
    )
    if not _agreed(options.yes, question):
        print("Nothing was fetched.")
        return 0
    with contextlib.closing(WorkerClient()) as client:
        client.fetch_weights(options.quality)
        outcome = client.wait(console.say)
    console.clear()
    if isinstance(outcome, Failure):
        raise outcome.error()
    assert isinstance(outcome, Done)
    print(outcome.text or _weights_line(weights_store.status(options.quality)))
    return 0


def run_import(options: argparse.Namespace) -> int:
    """Install TotalSegmentator's weights from a release zip or a folder. Raises InputRefused, MissingRequirement."""
    names = weights_store.import_file(options.file, console.say)
    console.clear()
    print(f"Imported {', '.join(names)} into {weights_store.usual_folder()}.")
    for quality in QUALITIES:
        print(f"  {quality:<6} {_weights_line(weights_store.status(quality))}")
    return 0


def run_remove(options: argparse.Namespace) -> int:
    """Remove TotalSegmentator's weights once the person has agreed."""
    found = weights_store.status(options.quality or ALL)
    if not found.present and not found.damaged:
        print(f"Nothing to remove in {found.folder}.")
        return 0
    names = ", ".join((*found.present, *(name for name, _ in found.damaged)))
    if not _agreed(options.yes, f"Remove {names} ({_megabytes(found.size_bytes)}) from {found.folder}?"):
        print("Nothing was removed.")
        return 0
    freed = weights_store.remove(options.quality or ALL)
    print(f"Removed {names}: {_megabytes(freed)} free.")
    return 0


def _agreed(yes: bool, question: str) -> bool:
    """Raises UsageError where nobody can be asked."""
    if yes:
        return True
    if not console.can_ask():
        raise UsageError("agreement_needed", question, "Nobody can be asked here: agree with --yes.")
    return console.agrees(question)


def _packages_line(kind: str) -> str:
    try:
        versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES[kind])
    except PackageNotFoundError as missing:
        return f"  packages    missing: {missing.name}. {INSTALL}"
    return f"  packages    {versions}"


def _weights_line(found: WeightsStatus) -> str:
    if found.complete:
        return f"ready, {_megabytes(found.size_bytes)}"
    parts = [f"{name} is missing" for name in found.missing]
    parts += [f"{name} is damaged ({wrong})" for name, wrong in found.damaged]
    return "; ".join(parts)


def _demonstration_line() -> str:
    try:
        folder = find_demonstration_folder()
    except MissingRequirement as error:
        return error.message
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{folder}, {_megabytes(size)}"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e6:.1f} MB"
