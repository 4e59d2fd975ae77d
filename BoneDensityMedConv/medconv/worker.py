"""The worker process: `python -m medconv.worker` keeps torch and a model warm and answers commands.

Standard input, one JSON object a line:
    {"command": "analyse", "id": "7", "case": "/path/case.npz", "weights": null, "device": "auto", "adjustment": null}
    {"command": "quit"}
Standard output, one ASCII JSON object a line:
    {"event": "ready"}
    {"event": "progress", "id", "stage", "fraction"}
    {"event": "result", "id", "result": the document of result.json}
    {"event": "error", "id", "code", "message", "remedy"}
It ends when its standard input closes, so it never outlives its parent.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

from medconv import pipeline
from medconv.case_file import load_case
from medconv.inference import LoadedModel
from medconv.report import result_document
from medconv.types import Adjustment, MedConvError


class Worker:
    """Answers commands; holds the model of the last one."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._model: LoadedModel | None = None
        self._model_key: tuple[Any, ...] | None = None

    def serve(self, commands: TextIO) -> None:
        """Answer until the commands end or one says quit."""
        self._emit(event="ready")
        for line in commands:
            command = json.loads(line)
            if command["command"] == "quit":
                return
            self._answer(command)

    def _answer(self, command: dict[str, Any]) -> None:
        job = command.get("id")
        try:
            self._emit(event="result", id=job, result=self._analyse(command))
        except MedConvError as error:
            self._emit(event="error", id=job, code=error.code, message=error.message, remedy=error.remedy)
        except MemoryError:
            self._emit(
                event="error",
                id=job,
                code="out_of_memory",
                message="The computer's memory is full.",
                remedy="Close other programs or images and analyse again.",
            )
        except Exception as error:  # noqa: BLE001 - the boundary of the process: whatever failed is told, not lost
            traceback.print_exc()
            self._emit(
                event="error",
                id=job,
                code="internal_error",
                message=f"The analysis failed unexpectedly ({type(error).__name__}: {error}).",
                remedy="Please report this with the log.",
            )

    def _analyse(self, command: dict[str, Any]) -> dict[str, Any]:
        def progress(stage: str, fraction: float) -> None:
            self._emit(event="progress", id=command.get("id"), stage=stage, fraction=fraction)

        progress("Loading MedConv", 0.2)
        model = self._load(command.get("weights"), command.get("device") or "auto")
        adjustment = Adjustment(**command["adjustment"]) if command.get("adjustment") else None
        prediction = pipeline.analyse(load_case(Path(command["case"])), model, adjustment, progress=progress)
        return result_document(prediction)

    def _load(self, weights: str | None, device: str) -> LoadedModel:
        key = (weights, device)
        if self._model is None or key != self._model_key:
            self._model, self._model_key = LoadedModel.load(weights, device), key
        return self._model

    def _emit(self, **event: Any) -> None:
        self._output.write(json.dumps(event) + "\n")
        self._output.flush()


def main() -> int:
    """Serve standard input. Whatever a library prints goes to standard error, so that events stay clean."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii", newline="\n")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    Worker(events).serve(sys.stdin)
    return 0


if __name__ == "__main__":
    sys.exit(main())
