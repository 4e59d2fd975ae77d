"""Which build of torch this machine gets: CPU unless there is an NVIDIA GPU, and never a silent swap.

On Linux the ordinary package index serves the CUDA build under the plain version number: right beside a GPU, several
gigabytes of unused libraries without one. The CPU build carries the local version `+cpu`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.console import SetupError, say
from scripts.pip_step import PipFailure

VERSION = "2.13.0"
CUDA_BUILD_GB = 5  # torch and its CUDA libraries unpacked, measured: 4.6
ROOM_FOR_IT_GB = 8  # while pip still holds the archives
INDEX_VARIABLE = "MEDCONV_TORCH_INDEX"
CHOICE_VARIABLE = "MEDCONV_TORCH"

Pip = Callable[[list[str], str], None]


def has_nvidia_gpu() -> bool:
    """True if nvidia-smi is there, runs and lists at least one GPU."""
    program = shutil.which("nvidia-smi")
    if not program:
        return False
    try:
        answer = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "GPU" in answer.stdout


def wants_cuda(environment: Mapping[str, str] = os.environ) -> bool:
    """True for the CUDA build: MEDCONV_TORCH=cpu|cuda decides, otherwise the GPU. Raises SetupError if misspelt."""
    choice = environment.get(CHOICE_VARIABLE, "auto").strip().lower()
    if choice not in ("auto", "cpu", "cuda"):
        raise SetupError(f"{CHOICE_VARIABLE} is {choice!r}.", "Set it to auto, cpu or cuda, or leave it out.", 2)
    return has_nvidia_gpu() if choice == "auto" else choice == "cuda"


def acceptable(installed: str | None, cuda: bool) -> bool:
    """True if the installed build can stay: the pinned version, and not the CPU build beside a GPU."""
    if installed is None or installed.split("+")[0] != VERSION:
        return False
    return not (cuda and installed.endswith("+cpu"))


def install(
    pip: Pip,
    locks: Path,
    cuda: bool,
    *,
    platform: str = sys.platform,
    environment: Mapping[str, str] = os.environ,
    free_gb: float = float("inf"),
) -> None:
    """Install torch through `pip(arguments, doing)`.

    locks: folder of the lock files, which hold the resolver to their versions.
    free_gb: room on the disk that holds the environment.
    Raises SetupError if no build can be had, or if the large one does not fit.
    """
    index = environment.get(INDEX_VARIABLE, "").strip()
    extra = ["--extra-index-url", index] if index else []
    if platform != "linux":
        pip(["install", "--no-deps", *extra, f"torch=={VERSION}"], "Installing torch")
        return
    if not cuda:
        say("Installing torch for the CPU (about 200 MB to fetch) ...")
        try:
            pip(["install", "--no-deps", *extra, f"torch=={VERSION}+cpu"], "Installing torch (CPU build)")
            return
        except PipFailure as failure:
            if not failure.missing:
                raise
        announce_large_build(environment)
    else:
        say(f"Installing torch for the NVIDIA GPU with its CUDA libraries (about {CUDA_BUILD_GB} GB on disk) ...")
    if free_gb < ROOM_FOR_IT_GB:
        raise SetupError(
            f"torch with its CUDA libraries needs {ROOM_FOR_IT_GB} GB during its installation, and only"
            f" {free_gb:.1f} GB are free here.",
            f"Free some space, or set {INDEX_VARIABLE} to the address that torch's install page shows for the CPU"
            f" build and {CHOICE_VARIABLE}=cpu, and run the same command again.",
        )
    # An index of the person's own may have a build for another CUDA version, with other libraries.
    pinned = ["core.txt"] if index else ["core.txt", "cuda.txt"]
    constraints = [word for name in pinned for word in ("--constraint", str(locks / name))]
    pip(["install", *constraints, *extra, f"torch=={VERSION}"], "Installing torch with its CUDA libraries")


def announce_large_build(environment: Mapping[str, str]) -> None:
    """Say, before it happens, how large the only build at hand is. Raises SetupError if the person asked for CPU."""
    advice = (
        f"set {INDEX_VARIABLE} to the address that torch's install page shows for 'CPU' (the one after --index-url)"
    )
    if environment.get(CHOICE_VARIABLE, "").strip().lower() == "cpu":
        raise SetupError(
            f"{CHOICE_VARIABLE}=cpu, but the package indexes that pip knows here have no CPU build of torch {VERSION}"
            f" for Python {sys.version_info[0]}.{sys.version_info[1]}.",
            f"To get it, {advice}, and run the same command again.",
        )
    say(
        f"The package indexes that pip knows here have no CPU build of torch {VERSION}"
        f" for Python {sys.version_info[0]}.{sys.version_info[1]}.\n"
        f"Taking the ordinary build instead: it works on a CPU too, but brings CUDA libraries that are not used then"
        f" (about 2.5 GB to fetch, {CUDA_BUILD_GB} GB on disk).\n"
        f"To avoid that: press Ctrl+C, {advice}, and run the same command again."
    )
