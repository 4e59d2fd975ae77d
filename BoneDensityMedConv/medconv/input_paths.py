"""Paths that a person gives: what would end, hang or mislead a reader is refused here by name, before it is opened."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from medconv.types import InputRefused, UsageError

NOT_TEXT = ("path_not_text", "The path holds bytes that are no UTF-8 text.")


def is_text(path: str | Path) -> bool:
    """False for a name with bytes that are no UTF-8: SimpleITK would end the process on it."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_text(path: str | Path) -> str:
    """The path as SimpleITK may be given it. Raises InputRefused unless it is text."""
    if not is_text(path):
        raise InputRefused(*NOT_TEXT, "Rename the file or its folder.")
    return str(path)


def check_out(out: Path) -> None:
    """Raises UsageError for a folder of results whose name no writer may be given."""
    if not is_text(out):
        raise UsageError(*NOT_TEXT, "Choose another --out.")


def existing(path: str | Path) -> Path:
    """A file or folder that is there and may be read.

    Raises InputRefused for a name that is no text, nothing there, no right to read it, and for pipes and devices, on
    which a reader would wait for ever; OSError where the disk itself fails.
    """
    path = Path(check_text(path))
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise not_permitted() from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            raise InputRefused(
                "file_missing", "There is no such file or folder.", "Check the path.", str(path)
            ) from error
        raise
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputRefused("not_a_file", "This is a pipe or a device, no file.", "Give a file, or a folder of files.")
    if not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):  # ITK would call it damaged
        raise not_permitted()
    return path


def not_permitted() -> InputRefused:
    """The refusal of a file or folder that this user may not read."""
    return InputRefused("permission_denied", "The file may not be read by this user.", "Ask for the right to read it.")
