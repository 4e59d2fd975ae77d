"""The folder of a training run: whose it is, the checkpoint, the chosen weights. Every file is whole or not there.

settings.json   what decides the run, and the fingerprint of its data: another run is refused
last.pt         after every epoch, all that the next one needs
best.npz        weights (float32, by parameter name) of the epoch that validation likes best
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medconv.training.cohorts.crops import CropSet
from medconv.types import FloatArray, InputRefused, UsageError

SETTINGS, LAST, BEST = "settings.json", "last.pt", "best.npz"
DATA = "data.json"  # which cohort, for people and for the card of exported weights
LOCK = ".lock"
LOG, TIMES, TENSORBOARD = "log.csv", "times.csv", "tensorboard"
PREDICTIONS, CHOICE = "predictions_validation.npz", "choice.json"


def fingerprint(*sets: CropSet, soft: FloatArray | None = None) -> str:
    """SHA-256 over crops, truth and ids: equal only for the same cases in the same order."""
    digest = hashlib.sha256()
    for cases in sets:
        digest.update(json.dumps([cases.crops.shape, cases.case_ids]).encode())
        for array in (cases.crops, cases.classes, cases.t_scores):
            digest.update(np.ascontiguousarray(array).data)
    if soft is not None:
        digest.update(np.ascontiguousarray(soft).data)
    return digest.hexdigest()


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Keep the folder for this process alone; the system lets go of it when the process ends, however it ends.

    Raises UsageError if another process holds it. Where a disk can't lock, nothing is held.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK).open("a") as stream:
        try:
            _lock(stream.fileno())
        except (BlockingIOError, PermissionError) as error:
            raise UsageError(
                "run_in_use", f"Another process is training in {run}.", "Wait for it, or choose another folder."
            ) from error
        except OSError:
            pass
        yield


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def claim(run: Path, content: Mapping[str, Any]) -> None:
    """Make the folder this run's, or check that it is. Raises UsageError naming what differs."""
    run.mkdir(parents=True, exist_ok=True)
    file, text = run / SETTINGS, json.dumps(content, indent=1, sort_keys=True)
    if not file.exists():
        if strangers := [path.name for path in run.iterdir() if path.name in (LAST, BEST, LOG, PREDICTIONS)]:
            raise UsageError(
                "run_folder_taken", f"{run} holds {strangers[0]} but no {SETTINGS}.", "Choose another folder."
            )
        write_whole(file, text.encode())
        return
    known, wanted = read_settings(run), json.loads(text)
    if known != wanted:
        raise UsageError(
            "run_of_other_settings",
            f"{run} holds a run of other settings or data: {'; '.join(differences(known, wanted)[:4])}.",
            "Give the settings of that run to go on with it, or choose another folder.",
        )


def read_settings(run: Path) -> dict[str, Any]:
    """settings.json of a run. Raises InputRefused if there is none."""
    try:
        return dict(json.loads((run / SETTINGS).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputRefused(
            "not_a_run",
            f"{run} is no folder of a training run ({_reason(error)}).",
            "Expected one that 'medconv train' wrote; where it was interrupted early, start it again.",
        ) from error


def read_data(run: Path) -> dict[str, Any]:
    """data.json of a run; empty where it was trained without a cohort folder."""
    try:
        return dict(json.loads((run / DATA).read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise InputRefused(
            "run_data_unreadable", f"{run / DATA} can't be read ({_reason(error)}).", "Start 'medconv train' again."
        ) from error


def differences(known: Any, wanted: Any, name: str = "") -> list[str]:
    """Where two JSON contents differ: "settings.epochs is 12, asked for 20"."""
    if isinstance(known, dict) and isinstance(wanted, dict):
        keys = sorted(set(known) | set(wanted))
        return [d for k in keys for d in differences(known.get(k), wanted.get(k), f"{name}.{k}" if name else k)]
    return [] if known == wanted else [f"{name} is {known}, asked for {wanted}"]


def save_checkpoint(run: Path, content: Mapping[str, Any]) -> None:
    """Replace last.pt."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_whole(run / LAST, buffer.getbuffer())


def load_checkpoint(run: Path) -> dict[str, Any] | None:
    """last.pt on the CPU, None before the first epoch is done. Raises InputRefused if it is damaged."""
    path = run / LAST
    if not path.exists():
        return None
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputRefused(
            "checkpoint_damaged",
            f"{path} can't be read ({type(error).__name__}).",
            "Restore the file, or remove the folder and train anew.",
        ) from error


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Arrays by parameter name, floating ones as float32; the same weights give the same bytes."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: _array(tensor) for name, tensor in sorted(state.items())}
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getbuffer())


def load_weights(path: Path) -> dict[str, Tensor]:
    """What `save_weights` wrote. Raises InputRefused if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputRefused(
            "run_without_weights",
            f"{path} can't be read ({_reason(error)}).",
            "Let 'medconv train' finish at least one epoch in this folder.",
        ) from error


def _reason(error: Exception) -> str:
    """Why a file can't be read, without the system's number for it."""
    if isinstance(error, FileNotFoundError):
        return f"there is no {Path(error.filename).name}" if error.filename else "it is not there"
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write beside, then replace: a kill, or a power cut, leaves the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        stream.write(content)
        stream.flush()
        with contextlib.suppress(OSError):  # some network drives can't
            os.fsync(stream.fileno())
    partial.replace(path)


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    found = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return np.require(found, requirements="C")  # ascontiguousarray would give a counter an axis
