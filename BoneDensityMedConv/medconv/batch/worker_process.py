"""What runs in a batch's own worker process: one thread, one case after another, ended with its parent.

Messages, as tuples through a pipe. To the parent: ("ready", resident MB), ("started", case_id), ("done", outcome as
JSON, resident MB with nothing in hand), ("known", pixels) and ("broken", error). From the parent: a job as JSON, the
answer to "known" (an outcome as JSON or None), or None, which ends the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from multiprocessing import connection
from pathlib import Path
from typing import Any

from medconv import process_tree, processes, worker_errors
from medconv.batch import measuring
from medconv.batch.jobs import BatchJob, CaseOutcome
from medconv.batch.settings import BatchSettings
from medconv.types import MedConvError, UsageError

OOM_SCORE = Path("/proc/self/oom_score_adj")
GRACE_S = 30.0  # the parent ends a case that takes too long; this is for a parent that is gone


def serve(pipe: connection.Connection, settings: dict[str, Any], out: str, time_limit_s: float, temporary: str) -> None:
    """The process's main function. temporary: its private folder, which it makes when it needs one."""
    # Ctrl-C, and a service manager that ends the whole group, are the parent's to answer: it would take the end of this
    # process for a crash of the case. A handler, unlike SIG_IGN, is not inherited by what a segmenter starts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    _end_with_parent(Path(temporary))
    _first_to_go()
    if not os.environ.get("MEDCONV_DEBUG"):
        _silence()
    if settings["segmenter"]:
        _own_temporary_folder(Path(temporary))
    try:
        _serve(pipe, BatchSettings.from_json(settings), Path(out), time_limit_s)
    except (EOFError, BrokenPipeError):  # the parent is gone
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent says it
        told = worker_errors.explain(error, "batch")
        with contextlib.suppress(OSError):
            pipe.send(("broken", told if isinstance(told, MedConvError) else UsageError("broken", str(told), "")))


def _serve(pipe: connection.Connection, settings: BatchSettings, out: Path, time_limit_s: float) -> None:
    from medconv.batch.one_case import Tools, run_job

    def known(pixels: str) -> CaseOutcome | None:
        pipe.send(("known", pixels))
        told = pipe.recv()
        return CaseOutcome.from_json(told) if told else None

    tools = Tools.load(settings, out)
    tools.known = known
    pipe.send(("ready", _resident_mb()))
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        while (told := pipe.recv()) is not None:
            job = BatchJob.from_json(told)
            pipe.send(("started", job.case_id))
            # A thread of its own, without the interpreter: it ends also what hangs in C after the parent was killed.
            faulthandler.dump_traceback_later(time_limit_s + GRACE_S, exit=True, file=nowhere)
            outcome = run_job(job, tools)
            faulthandler.cancel_dump_traceback_later()
            pipe.send(("done", outcome.to_json(), _resident_mb()))


def _resident_mb() -> float:
    """0 where it can't be told."""
    return measuring.memory_mb().get("resident_mb", 0.0)


def _first_to_go() -> None:
    """If memory runs out, the kernel ends this process before the batch or a person's program."""
    with contextlib.suppress(OSError):
        OOM_SCORE.write_text("500", "ascii")  # of 1000; proc(5)


def _silence() -> None:
    """What libraries print belongs into no progress line, and may name a file."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _own_temporary_folder(folder: Path) -> None:
    """For a segmenter's files: whoever ends this process can remove them."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder)))
    os.environ[process_tree.FOLDER_VARIABLE] = str(folder)
    tempfile.tempdir = str(folder)


def _end_with_parent(temporary: Path) -> None:
    """A parent that is killed can't tell its children."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_end, args=(parent.sentinel, temporary), daemon=True).start()


def _wait_and_end(sentinel: int, temporary: Path) -> None:
    connection.wait([sentinel])
    shutil.rmtree(temporary, ignore_errors=True)
    if sys.platform != "win32" and temporary.name:
        process_tree.kill(os.getpid(), temporary, processes.END_WITHIN_S)
    os._exit(1)
