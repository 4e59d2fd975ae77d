"""Client of the worker process (`python -m medconv.worker`), for panels and the command line; see docs/decisions/0004.

A panel calls `segment` or `analyse`, which return at once, and then `poll` from a timer; a command calls
`segment_and_wait`. Nothing that goes wrong with the process is raised by `poll`: it is a Failure, and the next job
starts a new process. One that the system kills because the memory is full is a Failure that says so.
"""

from __future__ import annotations

import atexit
import itertools
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medconv import worker_errors
from medconv.case_file import save_case
from medconv.ct_file import CTFileWriter
from medconv.explanation_file import load_explanation
from medconv.segmentation_file import load_segmentation
from medconv.segmenter import SegmenterRequest
from medconv.segmenters import weights_incoming, weights_store
from medconv.types import Adjustment, CTVolume, L1Case, MedConvError, SpineSegmentation
from medconv.vertebrae import LABEL_MAPS
from medconv.worker_events import Done, Event, Explained, Failure, Outcome, Progress, Result, Segmented
from medconv.worker_process import WorkerProcess

__all__ = ["Done", "Event", "Explained", "Failure", "Outcome", "Progress", "Result", "Segmented", "WorkerClient"]

TIME_LIMIT_S = 30 * 60.0  # a segmentation on two slow cores takes some minutes
FETCH_TIME_LIMIT_S = 4 * 3600.0  # half a gigabyte over a slow line
HAND_OVER_BYTES, HAND_OVER_S = 32_000_000, 0.05  # how much of the CT in one `poll`, and how long at most
HAND_OVER_PIECES = 8
WAIT_STEP_S = 0.02
# After these the process is ended as well: what its libraries left in memory and in its folder makes room again.
FRESH_START_AFTER = ("disk_full", "out_of_memory")


@dataclass
class _Job:
    """What is under way. `writer` is there until the CT is handed over; only then `command` is sent."""

    number: str
    what: str
    folder: Path
    time_limit_s: float
    command: dict[str, Any]
    until: float
    writer: CTFileWriter | None = None


class WorkerClient:
    """Runs one job at a time in a process of its own, which is started once and kept for the next.

    command: how to start the process; by default the Python that runs here (in Slicer: PythonSlicer).
    time_limit_s: after that time a job is ended with its process and reported as failed.
    """

    def __init__(self, command: Sequence[str] | None = None, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._process = WorkerProcess(command)
        self._time_limit_s = time_limit_s
        self._numbers = itertools.count(1)
        self._job: _Job | None = None

    @property
    def busy(self) -> bool:
        """True from the start of a job until `poll` has returned its outcome, or `cancel`."""
        return self._job is not None

    @property
    def process_id(self) -> int | None:
        """The running process's id, or None."""
        return self._process.process_id

    @property
    def folder(self) -> Path | None:
        """The private folder of the process, while there is one."""
        return self._process.folder

    def start(self) -> None:
        """Start the process if it isn't running, so that a later job finds it warm. Raises OSError."""
        atexit.register(self.close)
        self._process.start()

    def warm(self, weights: str | None = None, device: str = "auto") -> None:
        """Let the process load weights in the background, so that the next analysis with them answers at once.

        Nothing waits for it and `poll` tells nothing of it; a job that is handed over meanwhile comes before what is
        not loaded yet. Does nothing while busy. Raises OSError if the process can't be started.
        """
        if self._job is None:
            self.start()
            self._process.send({"command": "warm", "weights": weights, "device": device})

    def analyse(
        self, case: L1Case, weights: str | None = None, device: str = "auto", adjustment: Adjustment | None = None
    ) -> None:
        """Hand a case over; `poll` tells what becomes of it. Raises RuntimeError while busy, OSError if it can't."""
        told = {"weights": weights, "device": device, "adjustment": asdict(adjustment) if adjustment else None}
        self._hand_over_case("analysis", "analyse", case, told)

    def explain(self, case: L1Case, weights: str | None = None, device: str = "auto") -> None:
        """Ask what moved the answer for a case, as `analyse` does for the answer; `poll` tells. Raises as `analyse`."""
        self._hand_over_case("explanation", "explain", case, {"weights": weights, "device": device})

    def segment(self, ct: CTVolume, request: SegmenterRequest) -> None:
        """Segment a CT; `poll` hands it over piece by piece, and tells what becomes of it.

        The CT's voxels must not change until then. Raises RuntimeError while busy, OSError if it can't.
        """
        job = self._new_job("segmentation", "segment", self._time_limit_s)
        job.writer = CTFileWriter(job.folder, ct)
        job.command |= {"ct": str(job.writer.path), "request": asdict(_with_absolute_paths(request))}

    def fetch_weights(self, quality: str, weights_folder: str = "") -> None:
        """Fetch TotalSegmentator's weights for a quality, once the person has agreed. Raises as `analyse`."""
        job = self._new_job("fetching of weights", "weights", max(self._time_limit_s, FETCH_TIME_LIMIT_S))
        folder = _absolute(weights_folder)
        job.command |= {"action": "fetch", "quality": quality, "file": "", "weights_folder": folder}
        self._process.send(job.command)

    def import_weights(self, file: str | Path, weights_folder: str = "") -> None:
        """Import TotalSegmentator's weights from a file or folder. Raises as `analyse`."""
        job = self._new_job("import of weights", "weights", self._time_limit_s)
        path, folder = _absolute(str(file)), _absolute(weights_folder)
        job.command |= {"action": "import", "quality": "", "file": path, "weights_folder": folder}
        self._process.send(job.command)

    def poll(self) -> list[Event]:
        """What happened since the last call, in order; at most one outcome, the last of the list."""
        exit_code = self._process.exit_code  # before reading, so that nothing written before the end is missed
        events: list[Event] = [event for event in map(self._event, self._process.messages()) if event is not None]
        if exit_code is not None:
            if self._job is not None:
                events.append(Failure.of(self._process.death()))
            self.cancel()
        elif self._job is not None and time.monotonic() > self._job.until:
            events.append(Failure.of(worker_errors.time_limit(self._job.what, self._job.time_limit_s)))
            self.cancel()
        elif self._job is not None and self._job.writer is not None:
            events.append(self._hand_over(self._job, self._job.writer))
        if events and isinstance(events[-1], Failure) and events[-1].code in FRESH_START_AFTER:
            self.cancel()
        return events

    def wait(self, on_progress: Callable[[str, float], None] | None = None) -> Outcome:
        """The outcome of the job under way. Ctrl+C, or whatever `on_progress` raises, ends it with its process."""
        try:
            while self.busy:
                for event in self.poll():
                    if not isinstance(event, Progress):
                        return event
                    if on_progress is not None:
                        on_progress(event.stage, event.fraction)
                if self._job is not None and self._job.writer is None:
                    time.sleep(WAIT_STEP_S)
        except BaseException:
            self.cancel()
            raise
        raise RuntimeError("no job is under way")

    def segment_and_wait(
        self, ct: CTVolume, request: SegmenterRequest, progress: Callable[[str, float], None] | None = None
    ) -> SpineSegmentation:
        """Segment a CT and wait for it, for the command line. Raises MedConvError, and RuntimeError while busy."""
        try:
            self.segment(ct, request)
        except OSError as error:
            raise worker_errors.not_started(error) from error
        outcome = self.wait(progress)
        if isinstance(outcome, Segmented):
            return outcome.segmentation
        assert isinstance(outcome, Failure)
        raise outcome.error()

    def cancel(self) -> None:
        """End the process and all it started, and remove its folder; the next job starts a new one."""
        job = self._job
        self._process.end()
        self._forget_job()
        if job is not None and job.command["command"] == "weights":
            weights_incoming.clear_abandoned(weights_store.folder_of(job.command["weights_folder"]))

    def close(self) -> None:
        """End the process. Safe to call more than once; also called when the application ends."""
        self.cancel()
        atexit.unregister(self.close)

    def _new_job(self, what: str, command: str, time_limit_s: float) -> _Job:
        if self._job is not None:
            raise RuntimeError(f"the {self._job.what} is under way")
        self.start()
        number = str(next(self._numbers))
        assert self.folder is not None
        folder = self.folder / f"job-{number}"
        folder.mkdir()
        until = time.monotonic() + time_limit_s
        self._job = _Job(number, what, folder, time_limit_s, {"command": command, "id": number}, until)
        return self._job

    def _hand_over_case(self, what: str, command: str, case: L1Case, told: dict[str, Any]) -> None:
        job = self._new_job(what, command, self._time_limit_s)
        path = job.folder / "case.npz"
        try:
            save_case(path, case)
        except BaseException:
            self._forget_job()
            raise
        job.command |= {"case": str(path), **told}
        self._process.send(job.command)

    def _forget_job(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            if job.writer is not None:
                job.writer.close()
            # Where Windows keeps a mapped CT from being removed now, it goes with the private folder.
            shutil.rmtree(job.folder, ignore_errors=True)

    def _hand_over(self, job: _Job, writer: CTFileWriter) -> Event:
        until = time.monotonic() + HAND_OVER_S
        try:
            for _ in range(HAND_OVER_PIECES):
                if writer.write_some(HAND_OVER_BYTES // HAND_OVER_PIECES):
                    job.writer = None
                    self._process.send(job.command)
                    break
                if time.monotonic() > until:
                    break
        except (MedConvError, MemoryError, OSError) as error:
            self._forget_job()
            return Failure.of(worker_errors.not_started(error))
        return Progress("Handing over the CT", 0.0)

    def _event(self, message: dict[str, Any]) -> Event | None:
        if self._job is None or message.get("id") != self._job.number:
            return None
        kind = message.get("event")
        if kind == "progress":
            return Progress(str(message.get("stage", "")), min(max(float(message.get("fraction") or 0.0), 0.0), 1.0))
        if kind not in ("result", "explained", "segmented", "done", "error"):
            return None
        outcome = _outcome(kind, message)
        self._forget_job()
        return outcome


def _with_absolute_paths(request: SegmenterRequest) -> SegmenterRequest:
    """A label map may also be the name of a built-in one."""
    label_map = request.label_map if request.label_map in LABEL_MAPS else _absolute(request.label_map)
    folder, weights_folder = _absolute(request.folder), _absolute(request.weights_folder)
    return replace(request, folder=folder, weights_folder=weights_folder, label_map=label_map)


def _absolute(path: str) -> str:
    """The process has a working folder of its own; "" stays what it is."""
    return str(Path(path).expanduser().absolute()) if path else ""


def _outcome(kind: str, message: dict[str, Any]) -> Outcome:
    if kind == "result":
        return Result(message["result"])
    if kind == "done":
        return Done(str(message.get("text", "")))
    if kind in ("segmented", "explained"):
        path = Path(message["file"])
        try:
            return Segmented(load_segmentation(path)) if kind == "segmented" else Explained(load_explanation(path))
        except (OSError, ValueError, KeyError, TypeError, MemoryError) as error:
            return Failure.of(worker_errors.explain(error, "segmentation" if kind == "segmented" else "explanation"))
    code, text, remedy, details = (str(message.get(key, "")) for key in ("code", "message", "remedy", "details"))
    return Failure(code, text, remedy, details, int(message.get("exit_code", 1)))
