"""One command for a fresh clone: `python3 run.py demo`, `python3 run.py test` or `python3 run.py setup`.

This file keeps to the syntax of old Pythons on purpose, so that they can say what is missing instead of failing.
The work is done by `scripts/`, which needs Python 3.11 or 3.12.
"""

import os
import shutil
import subprocess
import sys

SUPPORTED = ((3, 12), (3, 11))
GUARD = "MEDCONV_RUN_RESTARTED"


def find_supported_python() -> str:
    """Path of a Python 3.12 or 3.11 on PATH that really starts, or ""."""
    for major, minor in SUPPORTED:
        candidate = shutil.which(f"python{major}.{minor}")
        if not candidate:
            continue
        check = f"import sys; sys.exit(sys.version_info[:2] != ({major}, {minor}))"
        if subprocess.call([candidate, "-c", check], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            return candidate
    return ""


def restart(arguments: list) -> int:
    """Run this file again under a supported Python. Returns its exit code, or 2 if there is none."""
    here = "{}.{}".format(*sys.version_info[:2])
    python = "" if os.environ.get(GUARD) else find_supported_python()
    if not python:
        sys.stderr.write(
            f"This project needs Python 3.11 or 3.12; this is Python {here}, and neither is on PATH.\n"
            "Install Python 3.12 (or 3.11) and run:  python3.12 run.py " + " ".join(arguments) + "\n"
        )
        return 2
    sys.stderr.write(f"Python {here} is not supported here; going on with {python}.\n")
    sys.stderr.flush()
    script = os.path.abspath(__file__)  # noqa: PTH100 (resolve() of an old Python on Windows may stay relative)
    return subprocess.call([python, script, *arguments], env=dict(os.environ, **{GUARD: "1"}))


def main(arguments: list) -> int:
    """Exit code: 0 done, 2 usage or Python version, otherwise that of the step that failed."""
    if sys.version_info[:2] not in SUPPORTED:
        return restart(arguments)
    from scripts.commands import run

    return run(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. Nothing is lost: the same command goes on where it was.\n")
        sys.exit(130)
