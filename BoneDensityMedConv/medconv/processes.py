"""Starting and ending the analysis process alike on Linux, macOS and Windows."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medconv import process_tree

FOLDER_PREFIX = "medconv-panel-"
END_WITHIN_S = 2.0
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MEDCONV_THREADS")


def python_executable() -> str:
    """The Python that can run `medconv.worker`: PythonSlicer in Slicer, else the one that runs here.

    In Slicer `sys.executable` may be the application itself, and starting that would open a second window.
    """
    beside = Path(sys.executable).parent / ("PythonSlicer.exe" if sys.platform == "win32" else "PythonSlicer")
    found = shutil.which("PythonSlicer")
    if _inside_slicer():
        if found or beside.is_file():
            return found or str(beside)
        raise FileNotFoundError("PythonSlicer, which comes with Slicer, is not on the path or beside the application")
    return sys.executable


def environment(import_root: Path, folder: Path) -> dict[str, str]:
    """This process's environment, with `medconv` importable and temporary files inside `folder`."""
    own = dict(os.environ)
    temporary = folder / "tmp"
    temporary.mkdir(mode=0o700, exist_ok=True)
    own.update({name: str(temporary) for name in ("TMPDIR", "TEMP", "TMP")})
    paths = [str(import_root), *filter(None, own.get("PYTHONPATH", "").split(os.pathsep))]
    own["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    own[process_tree.FOLDER_VARIABLE] = str(folder)
    own["PYTHONUNBUFFERED"] = "1"
    own["PYTHONIOENCODING"] = "utf-8"
    for unwanted in ("PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONBREAKPOINT"):
        own.pop(unwanted, None)
    return own


def own_group() -> dict[str, Any]:
    """Arguments of Popen that let the process and its children be ended together, without a console window."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """The parallelism is over cases; numpy and torch read these when they are loaded, in the child."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def end_tree(process: subprocess.Popen[bytes], folder: Path) -> None:
    """End a process that was started with `own_group`, and all that it started, within two seconds.

    folder: the private folder of its `environment`. There is nothing to save: all its files lie there.
    """
    if sys.platform == "win32":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                ["taskkill", "/PID", str(process.pid), "/T", "/F"],
                capture_output=True,
                timeout=END_WITHIN_S,
                creationflags=subprocess.CREATE_NO_WINDOW,
                check=False,
            )
    else:
        process_tree.kill(process.pid, folder, END_WITHIN_S)
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_WITHIN_S)


def private_folder() -> Path:
    """A new folder that only this user can read, named after this process."""
    return Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))


def remove_abandoned_folders() -> None:
    """Remove folders of applications that were killed before they could: they may hold parts of a CT."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        owner = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if owner.isdigit() and not is_running(int(owner), folder):
            shutil.rmtree(folder, ignore_errors=True)


def is_running(process_id: int, folder: Path) -> bool:
    """True if a process of that number runs (on Windows: if it still uses the folder)."""
    if sys.platform == "win32":
        # A folder with open files can't be renamed there; os.kill(pid, 0) would send Ctrl+C.
        try:
            folder.rename(folder)
        except OSError:
            return True
        return process_id == os.getpid()
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _inside_slicer() -> bool:
    slicer = sys.modules.get("slicer")
    return getattr(slicer, "app", None) is not None
