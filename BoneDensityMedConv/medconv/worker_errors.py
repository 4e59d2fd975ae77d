"""Whatever goes wrong in or with the worker process, in words for a person: cause and next step."""

from __future__ import annotations

import errno
import mmap
import shutil
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path

from medconv.ct_file import NO_SPACE
from medconv.types import Cancelled, MedConvError, MissingRequirement

GRAPHICS_WORDS = (
    "cuda out of memory",
    "cuda error: out of memory",
    "hip out of memory",
    "mps backend out of memory",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
)
# How numpy, torch, ITK, the C++ library and the operating system say that there is no memory.
NO_MEMORY_WORDS = (
    *GRAPHICS_WORDS,
    "memoryerror",
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "unable to allocate",
    "can't start new thread",
    "pthread_create failed",
    "thread creation failed",
    "failed to map segment from shared object",
    "bad_alloc",
    "bad allocation",
)
LOG_LINES_SHOWN = 3
PLACES_SHOWN = 6
PROBE_BYTES = 512 << 20
FULL_BELOW_BYTES = 1_000_000


def explain(error: BaseException, job: str = "analysis") -> MedConvError:
    """The error that a person is told for whatever a job raised; a MedConvError stays as it is."""
    if isinstance(error, MedConvError):
        return error
    for cause in _causes(error):
        if _is_no_memory(cause):
            return _no_graphics_memory() if _says(str(cause), GRAPHICS_WORDS) else no_memory()
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            return MissingRequirement(
                "disk_full",
                "The disk for temporary files is full.",
                "Free some gigabytes, or set TMPDIR (Windows: TEMP) to a folder on another disk, then start again.",
            )
    # Libraries that can't get memory fail in their own ways: "SystemError: error return without exception set" from
    # extension modules, an interrupt (Ctrl+C) that OpenBLAS sends to its own process.
    if _memory_is_short():
        return no_memory()
    if isinstance(error, KeyboardInterrupt):
        return Cancelled()
    if isinstance(error, SystemExit):
        what = f"a library ended the program, exit code {error.code}"
    else:
        what = f"{type(error).__name__}: {error}"
    return MedConvError(
        "internal_error",
        f"The {job} failed unexpectedly ({what}).",
        "Please report this with the places that follow; leave out what could name a patient.",
        f"Where: {_places(error)}",
    )


def no_memory() -> MissingRequirement:
    """The error for a computer whose memory is full."""
    return MissingRequirement(
        "out_of_memory",
        "The computer's memory is full.",
        "Close other programs or images and start again; for TotalSegmentator, quality 'fast' needs less.",
    )


def time_limit(what: str, limit_s: float) -> MedConvError:
    """The error for a job that was ended because it took too long."""
    limit = f"{limit_s / 60:.0f} minutes" if limit_s >= 120 else f"{limit_s:.0f} seconds"
    return MedConvError(
        "time_limit",
        f"The {what} took longer than its time limit ({limit}) and was ended.",
        "Close other programs and start again; for TotalSegmentator, quality 'fast' is much quicker.",
    )


def not_started(error: Exception) -> MedConvError:
    """The error for a job that could not be handed to the worker process."""
    known = explain(error)
    if known.code != "internal_error":
        return known
    return MissingRequirement(
        "worker_not_started",
        f"The analysis process can't be started ({error}).",
        "Check the folder for temporary files (TMPDIR; Windows: TEMP) and its free space, then start again.",
    )


def death(exit_code: int, log: Path) -> MedConvError:
    """The error for a worker process that ended by itself, from its exit code and its last words.

    A negative code is the signal's number (POSIX). An operating system that runs out of memory kills the largest
    process with signal 9 and leaves no other word.
    """
    lines = log.read_text("utf-8", "replace").strip().splitlines()[-LOG_LINES_SHOWN:] if log.is_file() else []
    last_words = " | ".join(line.strip() for line in lines)
    how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    killed = exit_code == -getattr(signal, "SIGKILL", 9)
    if killed or _says(last_words, NO_MEMORY_WORDS):
        why = "probably because the computer's memory is full"
        remedy = "Close other programs or images and start again; for TotalSegmentator, quality 'fast' needs less."
    elif log.parent.is_dir() and shutil.disk_usage(log.parent).free < FULL_BELOW_BYTES:
        why = "probably because the disk for temporary files is full"
        remedy = "Free some gigabytes, or set TMPDIR (Windows: TEMP) to a folder on another disk, then start again."
    else:
        why, remedy = "", "Start again; if it happens again, close other programs (memory) and report this."
    message = f"The analysis process ended unexpectedly ({how})" + (f", {why}." if why else ".")
    return MedConvError("worker_died", message, f"{remedy} Its last words: {last_words}" if last_words else remedy)


def _places(error: BaseException) -> str:
    """Where in the program an error arose, innermost first: files by their names alone, and no values."""
    frames = traceback.extract_tb(error.__traceback__)[-PLACES_SHOWN:]
    told = (f"{Path(frame.filename).name} line {frame.lineno}, {frame.name}" for frame in reversed(frames))
    return " < ".join(told) or "outside Python"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it was raised from or while handling."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_no_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, ImportError) and "not permitted" in str(error):  # a disk without the right to execute
        return False
    return isinstance(error, RuntimeError | ImportError | OSError) and _says(str(error), NO_MEMORY_WORDS)


def _memory_is_short() -> bool:
    try:
        with mmap.mmap(-1, PROBE_BYTES):
            return False
    except (OSError, MemoryError):
        return True


def _no_graphics_memory() -> MissingRequirement:
    return MissingRequirement(
        "out_of_memory",
        "The graphics card's memory is full.",
        "Close other programs that use the graphics card, choose quality 'fast', or choose the CPU.",
    )


def _says(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text.lower() for word in words)
