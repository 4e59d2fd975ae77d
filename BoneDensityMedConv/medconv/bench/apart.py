"""A function of the bench in a process of its own: its memory is its own, and its death is an answer, not the end.

`python -m medconv.bench.apart medconv.bench.MODULE:FUNCTION ARGUMENTS` calls it with the JSON object as keywords, and
with `emit` if it has such a parameter. What it emits and returns goes to the parent as lines of JSON, on a copy of
standard output that no library knows.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import medconv
from medconv import process_tree, processes
from medconv.bench import memory
from medconv.bench.figures import because
from medconv.types import MedConvError

PREFIX = "medconv.bench."
END_WITHIN_S = 5.0


class Failed(Exception):
    """The function raised, or its process died; the text says which, for a row of the table."""


def stream(function: str, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Iterator[Any]:
    """What the function emits, as it comes, what it returns, and last {"peak_mb": of its process}. Raises Failed.

    function: "medconv.bench.MODULE:FUNCTION". The process and all it started are ended when the iterator is closed.
    """
    command = [processes.python_executable(), "-m", "medconv.bench.apart", function, json.dumps(arguments)]
    here = str(Path(medconv.__file__).parents[1])
    paths = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH", ""))))
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            env={**os.environ, **(environment or {}), "PYTHONPATH": paths},
        )  # fmt: skip
        ended = False
        try:
            assert process.stdout is not None
            for line in process.stdout:
                kind, value = json.loads(line)
                if kind == "failed":
                    raise Failed(value)
                yield value
                ended = kind == "end"
            if process.wait() or not ended:
                raise Failed(_death(process.returncode, log))
        finally:
            if process.poll() is None:
                process_tree.kill(process.pid, None, END_WITHIN_S)
            process.communicate()


def call(function: str, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the function returned (a dict), with "peak_mb" of its process. Raises Failed."""
    *_, result, end = stream(function, arguments, environment)
    return {**end, **result}


def _death(code: int, log: Any) -> str:
    if code == -signal.SIGKILL if hasattr(signal, "SIGKILL") else False:
        return "its process was killed, most likely because memory ran out"
    log.seek(0)
    last = log.read()[-2000:].strip().splitlines()[-1:] or ["it said nothing"]
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"its process ended ({name}): {last[0][:160]}"


def main(function: str, arguments: str) -> int:
    """The child's side. Returns the exit code."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints lands in the log

    def send(kind: str, value: object) -> None:
        pipe.write(json.dumps([kind, value]) + "\n")
        pipe.flush()

    module, _, name = function.partition(":")
    if not module.startswith(PREFIX):
        send("failed", f"{function} is not of the bench")
        return 1
    try:
        call_it = getattr(import_module(module), name)
        extra = {"emit": partial(send, "value")} if "emit" in signature(call_it).parameters else {}
        send("value", call_it(**json.loads(arguments), **extra))
    except MedConvError as error:
        send("failed", f"{error.message} {error.remedy}")
        return 1
    except MemoryError:
        send("failed", "memory ran out")
        return 1
    except Exception as error:  # noqa: BLE001 the parent makes a row of it
        if os.environ.get("MEDCONV_DEBUG"):
            import traceback

            traceback.print_exc()
        send("failed", f"{type(error).__name__}: {because(error)}")
        return 1
    send("end", {"peak_mb": memory.peak_mb()})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
