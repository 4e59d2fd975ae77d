"""What runs inside a Dask worker: a case in a child process of ours, as on one's own computer.

The child may crash or be ended by the system for its memory; the Dask worker then says so and lives on. Nothing here
raises: Dask would write the arguments, with the paths in them, into its log.

A batch leaves a file in its folder while it runs, the token. A Dask worker that can read it sees the same folder; once
it is gone, or another's, nobody waits for these cases any more.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import threading
import time
from dataclasses import dataclass, field
from multiprocessing import util
from pathlib import Path
from typing import Any

from medconv import processes, weights, worker_errors
from medconv.batch.jobs import BatchJob, Crashed, Done, Started
from medconv.batch.known_answers import KnownAnswers
from medconv.batch.local_workers import LocalCrew
from medconv.batch.settings import BatchSettings, versions_here
from medconv.types import MedConvError

TOKEN = ".medconv-cluster-{}"
IDLE_S = 120.0  # a child that has had nothing to do for so long is ended: its batch was killed
LOOK_EVERY_S = 1.0


@dataclass
class _Station:
    """One thread of this Dask worker and its child process."""

    crew: LocalCrew
    batch: str
    out: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    used_at: float = field(default_factory=time.monotonic)


_STATIONS: dict[int, _Station] = {}  # by thread
_GUARD = threading.Lock()


def is_wanted(out: Path, batch: str) -> bool:
    """True while the batch of that number runs in the folder. Opens the file: a network drive may list what is gone."""
    try:
        return (out / TOKEN.format(batch)).read_text("ascii") == batch
    except (OSError, ValueError):
        return False


def probe(settings: dict[str, Any], out: str, batch: str, landmarks: list[str]) -> dict[str, Any]:
    """{"host", "problems"}: why this Dask worker can't take part, in words; the list is empty if it can.

    landmarks: paths that all must see: the inputs, and a file in each of them.
    """
    wanted, problems = BatchSettings.from_json(settings), []
    if differing := _differing_versions(wanted):
        problems.append(f"has other packages ({', '.join(differing)})")
    if not is_wanted(Path(out), batch):
        problems.append(f"does not see the folder {out}")
    elif not os.access(out, os.W_OK):
        problems.append(f"may not write into {out}")
    problems += [f"does not see {path}" for path in landmarks if not os.access(path, os.R_OK)][:1]
    try:
        found = weights.sha256_of(weights.find_model(wanted.weights or None)[1])
        if found != wanted.weights_sha256:
            problems.append(f"has other weights (SHA-256 {found[:12]}…, here {wanted.weights_sha256[:12]}…)")
        if wanted.dicom:
            from medconv.dicom_source import check_installed

            check_installed()
    except MedConvError as error:
        problems.append(f"has what is needed not installed ({error.message})")
    except OSError:
        problems.append("can't read its weights")
    return {"host": platform.node(), "problems": problems}


def unseen(job: BatchJob) -> str:
    """The first of a case's paths that is not there, or "". A drive that is not mounted is an empty folder."""
    return next((path for path in (job.ct, job.mask, *job.files[:1]) if path and not os.path.lexists(path)), "")


def work(
    job: dict[str, Any], settings: dict[str, Any], out: str, batch: str, time_limit_s: float, seen: bool
) -> dict[str, Any]:
    """Do a case: {"done": outcome}, {"crashed": (code, message)}, {"unfit": (code, message, remedy), "worker"} or {}.

    {} stands for a case that nobody waits for any more. {"unseen": path, "worker"} says that a file is not here, unless
    `seen` is False: then it is known to be nowhere, which is the case's own outcome.
    """
    from distributed import get_worker

    worker = get_worker()
    try:
        if seen and (missing := unseen(BatchJob.from_json(job))):
            return {"unseen": missing, "worker": worker.address}
        station = _station(settings, Path(out), batch, time_limit_s)
        with station.lock:
            for told in _events(station, BatchJob.from_json(job)):
                if isinstance(told, Done):
                    return {"done": told.outcome.to_json()}
                if isinstance(told, Crashed):
                    return {"crashed": (told.code, told.message)}
                if isinstance(told, Started):
                    name = f"{platform.node()} {os.getpid()}"
                    worker.log_event(f"medconv-{batch}", {"case_id": told.case_id, "place": name})
        _close(station)
        return {}
    except Exception as error:  # noqa: BLE001 - see above: nothing may be raised here
        told_error = worker_errors.explain(error, "batch")
        return {"unfit": (told_error.code, told_error.message, told_error.remedy), "worker": worker.address}


def _events(station: _Station, job: BatchJob) -> Any:
    """What happens to the case, until its batch is gone."""
    station.crew.submit(job)
    for event in station.crew.events():
        station.used_at = time.monotonic()
        if event is not None:
            yield event
        elif not is_wanted(station.out, station.batch):
            return


def _station(settings: dict[str, Any], out: Path, batch: str, time_limit_s: float) -> _Station:
    """This thread's, with the child of this batch; a child of another batch is ended."""
    number = threading.get_ident()
    with _GUARD:
        _prepare()
        station = _STATIONS.get(number)
        if station is not None and station.batch == batch:
            station.used_at = time.monotonic()
            return station
    if station is not None:
        with station.lock:
            _close(station)
    crew = LocalCrew(BatchSettings.from_json(settings), out, 1, time_limit_s, KnownAnswers(out).known)
    made = _Station(crew, batch, out)
    with _GUARD:
        _STATIONS[number] = made
    return made


def _close(station: _Station) -> None:
    with _GUARD:
        for number in [number for number, known in _STATIONS.items() if known is station]:
            del _STATIONS[number]
    station.crew.close()


def _prepare() -> None:
    """Once in this Dask worker: let it have children, and see to it that they end."""
    process = multiprocessing.current_process()
    if process.daemon:
        # Dask's nanny starts its worker as a "daemon", which may have no children. They end with it all the same: each
        # watches its parent (worker_process), and the finalizer runs before multiprocessing waits for them.
        process.daemon = False
    if "medconv-stations" not in {thread.name for thread in threading.enumerate()}:
        for name in processes.THREAD_VARIABLES:
            os.environ.setdefault(name, "1")
        util.Finalize(None, _close_all, exitpriority=100)
        threading.Thread(target=_look_after, name="medconv-stations", daemon=True).start()


def _look_after() -> None:
    """End children that have nothing to do any more: some hundred megabytes each."""
    while True:
        time.sleep(LOOK_EVERY_S)
        for station in list(_STATIONS.values()):
            if station.lock.acquire(blocking=False):
                try:
                    idle_s = time.monotonic() - station.used_at
                    if idle_s > IDLE_S or (idle_s > LOOK_EVERY_S and not is_wanted(station.out, station.batch)):
                        _close(station)
                finally:
                    station.lock.release()


def _close_all() -> None:
    for station in list(_STATIONS.values()):
        _close(station)


def _differing_versions(wanted: BatchSettings) -> list[str]:
    here = versions_here(wanted.runtime, wanted.segmenter.get("kind", ""))
    if Path(wanted.label_map).is_file():
        here["label map"] = weights.sha256_of(Path(wanted.label_map))
    pairs = [(name, here.get(name, "none"), version) for name, version in sorted(wanted.versions.items())]
    return [f"{name} {found}, here {version}" for name, found, version in pairs if found != version]
