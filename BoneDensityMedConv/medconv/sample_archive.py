"""The source distribution of TotalSegmentator 2.18.0 (Apache-2.0), as a source of real CTs.

pip fetches the archive from whatever package index it is set up for; its SHA-256 is checked before anything in it is
run or read, and nothing but the named files is taken out of it. It is kept in this user's cache and fetched once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from medconv.types import MissingRequirement
from medconv.user_folders import cache_folder as cache_folder

PACKAGE = "totalsegmentator==2.18.0"
ARCHIVE = "totalsegmentator-2.18.0.tar.gz"
ARCHIVE_SHA256 = "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03"
FETCH_LIMIT_S = 600.0

CT_MEMBER = "tests/reference_files/example_ct.nii.gz"
MASK_MEMBER = "tests/reference_files/spine_report/example_ct_report/totalseg.nii.gz"
LICENCE_MEMBER = "LICENSE"
# Lets a copy in the cache be trusted without opening the archive again.
MEMBER_SHA256 = {
    CT_MEMBER: "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1",
    MASK_MEMBER: "1dee90b23f201480e42211527b1e3acefd99c22e21291ef319a95d0b460d7376",
}


def extract_member(name: str, cache_dir: Path | None = None, download: bool = True) -> Path:
    """One file of the archive, such as `tests/reference_files/example_seg.nii.gz`, as a path in the cache.

    Raises MissingRequirement if the archive can't be had or holds no such file.
    """
    target = _place(name, cache_dir)
    if not _is_sound(target, name):
        with _open_archive(cache_dir, download) as archive:
            _take(archive, name, target)
    return target


def extract_folder(name: str, cache_dir: Path | None = None, download: bool = True) -> Path:
    """All files directly in one folder of the archive, such as `tests/reference_files/example_ct_dicom`.

    Raises MissingRequirement if the archive can't be had or holds no such folder.
    """
    target = _place(name, cache_dir)
    done = target.with_name(target.name + ".complete")
    if done.exists():
        return target
    with _open_archive(cache_dir, download) as archive:
        prefix = f"{_top()}/{name}/"
        inside = [member.name.removeprefix(prefix) for member in archive if member.name.startswith(prefix)]
        files = [entry for entry in inside if entry and "/" not in entry]
        if not files:
            raise _not_in_archive(name)
        for entry in files:
            _take(archive, f"{name}/{entry}", target / entry)
    done.touch()
    return target


def _top() -> str:
    return ARCHIVE.removesuffix(".tar.gz")


def _place(name: str, cache_dir: Path | None) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise ValueError(f"{name!r} is not a path inside the archive")
    return (cache_folder() if cache_dir is None else cache_dir) / _top() / Path(*parts)


def _is_sound(path: Path, name: str) -> bool:
    expected = MEMBER_SHA256.get(name)
    return path.is_file() and (expected is None or _sha256(path) == expected)


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _not_in_archive(name: str) -> MissingRequirement:
    return MissingRequirement("sample_file_missing", f"{ARCHIVE} holds no {name}.", "Check the name.")


def _take(archive: tarfile.TarFile, name: str, target: Path) -> None:
    """Copy one regular file out of the archive; the target appears only when it is whole."""
    try:
        source = archive.extractfile(f"{_top()}/{name}")
    except KeyError:
        source = None
    if source is None:
        raise _not_in_archive(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, tempfile.NamedTemporaryFile(dir=target.parent, prefix=".part-", delete=False) as draft:
        shutil.copyfileobj(source, draft)
    Path(draft.name).replace(target)


@contextmanager
def _open_archive(cache_dir: Path | None, download: bool) -> Iterator[tarfile.TarFile]:
    folder = cache_folder() if cache_dir is None else cache_dir
    path = folder / ARCHIVE
    if not (path.is_file() and _sha256(path) == ARCHIVE_SHA256):
        if not download:
            raise MissingRequirement("sample_not_cached", "The sample CT is not in the cache.", "Allow the download.")
        _fetch(folder)
    with tarfile.open(path, "r:gz") as archive:
        yield archive


def _fetch(folder: Path) -> None:
    """Let pip download the archive into `folder`. Raises MissingRequirement with the reason if it can't."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        # With the hash in a requirements file pip checks the archive before it runs any code in it.
        wanted = Path(scratch) / "sample.txt"
        wanted.write_text(f"{PACKAGE} --hash=sha256:{ARCHIVE_SHA256}\n", encoding="ascii")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "totalsegmentator"]
        command += ["--no-input", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
        command += ["--dest", scratch, "--require-hashes", "--requirement", str(wanted)]
        # pip starts itself again to build the metadata; that one reads only the environment.
        environment = {**os.environ, "PIP_RETRIES": "1", "PIP_TIMEOUT": "15", "PIP_DEFAULT_TIMEOUT": "15"}
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=FETCH_LIMIT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _not_fetched(str(error)) from error
        archive = Path(scratch) / ARCHIVE
        if done.returncode != 0 or not archive.is_file():
            raise _not_fetched(_reason(done.stderr))
        if _sha256(archive) != ARCHIVE_SHA256:
            raise _not_fetched("the archive that came is not the published one")
        archive.replace(folder / ARCHIVE)


def _not_fetched(reason: str) -> MissingRequirement:
    return MissingRequirement(
        "sample_not_fetched",
        f"The real sample CT could not be fetched through pip: {reason}.",
        "Check the network or pip's index, or use a CT of your own.",
    )


def _reason(output: str) -> str:
    """What pip said, in a few words."""
    signs = {
        "No module named pip": "this Python has no pip",
        "DO NOT MATCH THE HASHES": "the archive that came is not the published one",
        "NameResolutionError": "no network",
        "name resolution": "no network",
        "NewConnectionError": "no network",
        "ConnectTimeout": "the package index does not answer",
        "ReadTimeout": "the package index does not answer",
        "ProxyError": "the network's proxy refuses",
        "connection broken by": "the package index can't be reached",
        "No space left": "the disk is full",
        "No matching distribution": "the package index does not have it",
    }
    for sign, words in signs.items():
        if sign in output:
            return words
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    return errors[-1].removeprefix("ERROR:").strip().rstrip(".") if errors else "pip failed without a reason"
