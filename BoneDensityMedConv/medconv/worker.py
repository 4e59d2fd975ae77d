"""The worker process: `python -m medconv.worker` keeps torch and its models warm and answers commands.

Standard input, one JSON object a line:
    {"command": "analyse", "id": "7", "case": "/path/case.npz", "weights": null, "device": "auto", "adjustment": null}
    {"command": "explain", "id": "7", "case": "/path/case.npz", "weights": null, "device": "auto"}
    {"command": "warm", "weights": null, "device": "auto"}
    {"command": "segment", "id": "8", "ct": "/path/ct.json", "request": the fields of SegmenterRequest}
    {"command": "weights", "id": "9", "action": "fetch" or "import", "quality", "file", "weights_folder"}
    {"command": "quit"}
Standard output, one ASCII JSON object a line:
    {"event": "ready"}
    {"event": "warm", "done": whether all was loaded}
    {"event": "progress", "id", "stage", "fraction"}
    {"event": "result", "id", "result": the document of result.json}
    {"event": "explained", "id", "file": a file of `explanation_file`, beside the case}
    {"event": "segmented", "id", "file": a file of `segmentation_file`, beside the CT}
    {"event": "done", "id", "text"}
    {"event": "error", "id", "code", "message", "remedy", "details", "exit_code"}
It ends when its standard input closes, also in the middle of a job, so it never outlives its parent.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from medconv import explanation, pipeline, process_tree, processes, segmenter, worker_errors
from medconv.case_file import load_case
from medconv.ct_file import load_ct
from medconv.explanation_file import save_explanation
from medconv.inference import LoadedModel
from medconv.report import result_document
from medconv.segmentation_file import save_segmentation
from medconv.segmenter import Segmenter, SegmenterRequest
from medconv.types import Adjustment
from medconv.weights import find_model
from medconv.worker_commands import Commands
from medconv.worker_interrupts import Interrupts

PROGRESS_EVERY_S = 0.1
WHAT = {"analyse": "analysis", "explain": "explanation", "segment": "segmentation", "weights": "work on the weights"}


class Worker:
    """Answers commands; holds the model and the segmenter of the last ones."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._model: LoadedModel | None = None
        self._model_key: tuple[Any, ...] | None = None
        self._segmenter: Segmenter | None = None
        self._request: SegmenterRequest | None = None
        self.interrupts = Interrupts()

    def serve(self, commands: Iterable[dict[str, Any]], is_waited_for: Callable[[], bool] = lambda: False) -> None:
        """Answer until the commands end or one says quit.

        is_waited_for: whether a command is there already that comes after the present one.
        """
        self._emit(event="ready")
        for command in commands:
            if command["command"] == "quit":
                return
            if command["command"] == "warm":
                self._warm(command, is_waited_for)
            else:
                self._answer(command)

    def _warm(self, command: dict[str, Any], is_waited_for: Callable[[], bool]) -> None:
        """Load what the next analysis needs, in steps that a job does not wait for longer than for its own loading.

        Nobody asked for it, so nobody is told what goes wrong: the job that needs it will tell.
        """
        steps: list[Callable[[], object]] = [
            lambda: importlib.import_module("torch"),
            lambda: self._load(command.get("weights"), command.get("device") or "auto"),
            self._run_once,
        ]
        done = 0
        try:
            for step in steps:
                if is_waited_for():
                    break
                with self.interrupts:
                    step()
                done += 1
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - told by the job that meets it
            if worker_errors.explain(error).code == "out_of_memory":
                self._model = None
        self._emit(event="warm", done=done == len(steps))

    def _run_once(self) -> None:
        if self._model is not None:
            self._model.warm_up()

    def _answer(self, command: dict[str, Any]) -> None:
        """Do one job and tell how it ended, whatever happens in it."""
        job, kind = command.get("id"), str(command["command"])
        jobs = {
            "analyse": self._analyse,
            "explain": self._explain,
            "segment": self._segment,
            "weights": self._weights,
        }
        try:
            with self.interrupts:
                answer = jobs[kind](command, _Progress(self._emit, job))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever failed is told, not lost
            told = worker_errors.explain(self.interrupts.explains(error), WHAT.get(kind, kind))
            if told is not error:
                with contextlib.suppress(MemoryError, OSError):
                    traceback.print_exc()
            answer = {"event": "error", "code": told.code, "message": told.message, "remedy": told.remedy}
            answer |= {"details": told.details, "exit_code": told.exit_code}
        # Outside the block: here the failed job's arrays, which its traceback held, are free again.
        if answer.get("code") == "out_of_memory":
            self._model = self._segmenter = None
        self._emit(id=job, **answer)

    def _analyse(self, command: dict[str, Any], progress: _Progress) -> dict[str, Any]:
        progress("Loading MedConv", 0.2)
        model = self._load(command.get("weights"), command.get("device") or "auto", lambda what: progress(what, 0.2))
        adjustment = Adjustment(**command["adjustment"]) if command.get("adjustment") else None
        prediction = pipeline.analyse(load_case(Path(command["case"])), model, adjustment, progress=progress)
        return {"event": "result", "result": result_document(prediction)}

    def _explain(self, command: dict[str, Any], progress: _Progress) -> dict[str, Any]:
        explanation.require_captum()
        progress("Loading MedConv", 0.0)
        model = self._load(command.get("weights"), command.get("device") or "auto")
        path = Path(command["case"])
        file = path.with_name("explanation.npz")
        save_explanation(file, explanation.explain(model, load_case(path), progress=progress))
        return {"event": "explained", "file": str(file)}

    def _segment(self, command: dict[str, Any], progress: _Progress) -> dict[str, Any]:
        progress("Loading the segmenter", 0.0)
        request = SegmenterRequest(**command["request"])
        if self._segmenter is None or request != self._request:
            self._segmenter = None  # the old one's memory is free before the new one needs it
            self._segmenter, self._request = segmenter.make_segmenter(request), request
        path = Path(command["ct"])
        segmentation = self._segmenter.segment(load_ct(path), progress)
        file = path.with_name("segmentation.npz")
        save_segmentation(file, segmentation)
        return {"event": "segmented", "file": str(file)}

    def _weights(self, command: dict[str, Any], progress: _Progress) -> dict[str, Any]:
        from medconv.segmenters import weights_store

        folder = command.get("weights_folder") or ""
        self._segmenter = None  # it may hold the weights that are replaced
        if command["action"] == "import":
            names = weights_store.import_file(command["file"], progress, folder)
        else:
            names = weights_store.fetch(command["quality"], progress, folder).present
        return {"event": "done", "text": ", ".join(names)}

    def _load(self, weights: str | None, device: str, say: Callable[[str], None] = lambda what: None) -> LoadedModel:
        """The model of these weights as they are now: others may have been imported under the same name."""
        key = (find_model(weights), device)
        if self._model is None or key != self._model_key:
            self._model = None  # the old one's memory is free before the new one needs it
            self._model, self._model_key = LoadedModel.load(weights, device, say=say), key
        return self._model

    def _emit(self, **event: Any) -> None:
        self._output.write(json.dumps(event) + "\n")
        self._output.flush()


class _Progress:
    """Tells a job's progress: a new stage at once, otherwise at most ten times a second."""

    def __init__(self, emit: Callable[..., None], job: Any) -> None:
        self._emit, self._job = emit, job
        self._stage, self._next = "", 0.0

    def __call__(self, stage: str, fraction: float) -> None:
        now = time.monotonic()
        if stage == self._stage and now < self._next:
            return
        self._stage, self._next = stage, now + PROGRESS_EVERY_S
        self._emit(event="progress", id=self._job, stage=stage, fraction=float(fraction))


def end_at_once() -> None:
    """End this process and what it started; the application that would remove the private folder is gone."""
    folder = _private_folder()
    _remove(folder)
    if sys.platform != "win32":
        process_tree.kill(os.getpid(), folder, processes.END_WITHIN_S)
    os._exit(1)


def _private_folder() -> Path | None:
    folder = Path(os.environ.get(process_tree.FOLDER_VARIABLE, ""))
    return folder if folder.name.startswith(processes.FOLDER_PREFIX) else None


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Serve standard input. Whatever a library prints goes to standard error, so that events stay clean."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii", newline="\n")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # No library, and no process that one starts, can take a command for its own input. Unbuffered: a thread that
    # waits in a buffered stream would make Python's end fail.
    lines = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    commands = Commands(lines, orphaned=end_at_once)
    worker = Worker(events)
    worker.interrupts.install()
    worker.serve(commands, commands.is_waited_for)
    _remove(_private_folder())
    return 0


if __name__ == "__main__":
    sys.exit(main())
