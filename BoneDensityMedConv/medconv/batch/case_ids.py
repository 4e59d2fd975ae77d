"""A case's name: from where it lies, safe as a file name on any system, the same whenever it is listed again."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath

USUAL_ENDING = ".nii.gz"  # others stay in the name: a.nii.gz and a.nrrd are two cases
BETWEEN_FOLDERS = "--"
LONGEST = 100
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
NOT_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def case_id_of(relative: PurePath | str) -> str:
    """From a path relative to the input: `train/s1.nii.gz` → `train--s1`.

    What can't be told apart or written everywhere (umlauts, blanks, very long paths) is replaced, and the name ends
    with the first eight digits of the path's SHA-256.
    """
    text = PurePath(relative).as_posix()
    stem = text[: -len(USUAL_ENDING)] if text.lower().endswith(USUAL_ENDING) else text
    parts = [part for part in stem.split("/") if part]
    name = BETWEEN_FOLDERS.join(re.sub(r"[^A-Za-z0-9._-]", "_", part) for part in parts).lstrip(".-")
    plain = all(PLAIN.fullmatch(part) and BETWEEN_FOLDERS not in part for part in parts) and parts != []
    if plain and len(name) <= LONGEST and not name.endswith(".") and not NOT_ON_WINDOWS.fullmatch(name):
        return name
    return with_digest(name.rstrip("."), text)


def with_digest(name: str, *of: str) -> str:
    """The name with eight digits that stand for `of`."""
    digest = hashlib.sha256("\0".join(of).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{name[: LONGEST - 9]}-{digest[:8]}".lstrip("-")
