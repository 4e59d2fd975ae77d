"""A case's name: from where it lies, safe as a file name on any system, the same whenever it is listed again.

It is made from the case's own path (UID, list's name) and the batch's INPUTs alone. What else is listed has no say: a
file that arrives later can't rename a case that has its answer.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

LIST_ENDINGS = (".csv", ".tsv")
USUAL_ENDING = ".nii.gz"  # others stay in the name: a.nii.gz and a.nrrd are two cases
BETWEEN_FOLDERS = "--"
LONGEST, DIGITS = 100, 12
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
UID = re.compile(r"[0-9]+(\.[0-9]+)+")
NOT_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def case_id_of(relative: PurePath | str, within: str = "") -> str:
    """From a path relative to the input: `train/s1.nii.gz` → `train--s1`.

    within: the input's name, which goes before (`names_of`).
    What can't be told apart or written everywhere (umlauts, blanks, very long paths) is replaced, and the name ends
    with the first twelve digits of the path's SHA-256.
    """
    text = _joined(within, relative)
    stem = text.removesuffix(USUAL_ENDING)
    if UID.fullmatch(stem.rpartition("/")[2]):  # a file that is named by its series' UID is not that series
        stem = text
    parts = [part for part in stem.split("/") if part]
    name = BETWEEN_FOLDERS.join(re.sub(r"[^A-Za-z0-9._-]", "_", part) for part in parts).lstrip(".-")
    plain = all(PLAIN.fullmatch(part) and BETWEEN_FOLDERS not in part for part in parts) and parts != []
    if plain and len(name) <= LONGEST and not name.endswith(".") and not NOT_ON_WINDOWS.fullmatch(name):
        return name
    return _with_digits(name.rstrip("."), text)


def series_id_of(uid: str, folder: PurePath | str, within: str = "") -> str:
    """Of a DICOM series: its UID; if there is none, its folder relative to the input, with digits of that.

    The digits keep it apart from a file of that name.
    """
    if UID.fullmatch(uid):
        return case_id_of(uid, within)
    name = uid or folder
    return _with_digits(case_id_of(name, within), _joined(within, name) + "/")


def names_of(roots: Iterable[Path]) -> dict[Path, str]:
    """What goes before the names of each input's cases: nothing for one input, else what the input is called.

    roots: absolute folders, or files of lists. Inputs that are called the same get digits of their paths.
    """
    called = {root: root.stem if root.suffix.lower() in LIST_ENDINGS else root.name for root in roots}
    if len(called) == 1:
        return dict.fromkeys(called, "")
    count = Counter(name.casefold() for name in called.values())
    return {
        root: name if name and count[name.casefold()] == 1 else _with_digits(name, str(root))
        for root, name in called.items()
    }


def _joined(within: str, relative: PurePath | str) -> str:
    text = PurePath(relative).as_posix()
    return f"{within}/{text}" if within else text


def _with_digits(name: str, of: str) -> str:
    """The name with twelve digits that stand for `of`: by chance, one in 50,000 archives of 100,000 has two alike."""
    digest = hashlib.sha256(of.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{name[: LONGEST - DIGITS - 1]}-{digest[:DIGITS]}".lstrip("-")
