"""Measured choices, kept for this user: one small JSON file a key in the cache folder.

A file of its own for each choice needs no lock: two processes or threads that write at once write the same kind of
thing, and the last whole file stays. What can't be read or written is as if it were not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import threading
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medconv.control_groups import cores
from medconv.runtimes.runtime import Subject
from medconv.user_folders import cache_folder

FORMAT = 1
PACKAGES = ("torch", "openvino", "onnxruntime", "onnx")


@dataclass(frozen=True)
class Remembered:
    """The name of the chosen runtime, notes as (code, message), and the measured seconds of a pass by runtime."""

    name: str
    notes: tuple[tuple[str, str], ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def key_of(subject: Subject, weights_sha256: str) -> dict[str, Any]:
    """All that a choice depends on; holds no name of a person or a computer."""
    return {
        "format": FORMAT,
        "processor": processor_name(),
        "cores": cores(),
        "threads": subject.threads,
        "versions": {package: _version(package) for package in PACKAGES},
        "weights": weights_sha256,
        "architecture": asdict(subject.architecture),
        "device": _device_name(subject.device),
        "input": list(subject.input_shape),
    }


def read(key: dict[str, Any]) -> Remembered | None:
    """What was chosen under this key; None if nothing was, or the file is damaged."""
    from medconv.runtimes import RUNTIMES

    try:
        document = json.loads(_path(key).read_text("utf-8"))
        if document["key"] != key or document["runtime"] not in RUNTIMES:
            return None
        notes = tuple((str(code), str(message)) for code, message in document["notes"])
        seconds = {str(name): float(value) for name, value in document["seconds"].items()}
        return Remembered(document["runtime"], notes, seconds)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        return None


def write(key: dict[str, Any], chosen: Remembered) -> None:
    """Keep a choice; where the folder can't be written, it is measured again next time."""
    path = _path(key)
    document = {"key": key, "runtime": chosen.name, "notes": chosen.notes, "seconds": chosen.seconds}
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    with contextlib.suppress(OSError):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(document, indent=1), "utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@cache
def processor_name() -> str:
    """The processor's name, as exact as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _path(key: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "runtimes" / f"{digest[:24]}.json"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device_name(device: str) -> str:
    """A GPU by its model, so that another card in the same slot is measured again."""
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} {torch.cuda.get_device_name(device)}"
