"""One pip command: its output in a log, a line of progress now and then, and a cause in plain words if it fails."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from scripts.console import SetupError, say

PROGRESS_EVERY_S = 20.0
COMMON = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")

# Where pip works under a constraints file, it reports a version that nobody has as a conflict with the constraint.
NO_MATCH = re.compile(
    r"No matching distribution found for (\S+)"
    r"|The conflict is caused by:\s+The user requested (\S+)\s+The user requested \(constraint\)"
)
CAUSES = (
    (
        re.compile(r"No space left on device", re.I),
        "the disk is full",
        "Free some space (the whole set-up takes about 4 GB) and run the same command again.",
    ),
    (
        re.compile(
            r"connection broken by|NewConnectionError|NameResolutionError|Temporary failure in name resolution"
            r"|ReadTimeout|ConnectTimeout|Network is unreachable|ConnectionResetError|ProxyError",
            re.I,
        ),
        "the package index could not be reached",
        "Check the network (or pip's proxy settings) and run the same command again; it goes on where it stopped.",
    ),
    (
        re.compile(r"Permission denied|Read-only file system", re.I),
        "a file could not be written",
        "Check that this folder belongs to you and run the same command again.",
    ),
)


class PipFailure(SetupError):
    """pip failed. `missing` names the requirement of which no build fits this machine, or is ""."""

    def __init__(self, cause: str, remedy: str, missing: str = "") -> None:
        super().__init__(cause, remedy)
        self.missing = missing


def pip(python: Path, arguments: list[str], log: Path, doing: str) -> None:
    """Run `python -m pip <arguments>`; append all its output to `log`.

    Raises PipFailure with a cause that a person understands.
    """
    command = [str(python), "-m", "pip", arguments[0], *COMMON, *arguments[1:]]
    log.parent.mkdir(parents=True, exist_ok=True)
    started = said = time.monotonic()
    with log.open("ab") as sink:
        sink.write(f"\n$ {' '.join(command)}\n".encode())
        sink.flush()
        start = sink.tell()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if time.monotonic() - said > PROGRESS_EVERY_S:
                    said = time.monotonic()
                    say(f"  ... {doing}, {said - started:.0f} s so far")
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        with log.open("rb") as source:
            source.seek(start)
            raise explain(source.read().decode(errors="replace"), doing, log)


def explain(output: str, doing: str, log: Path) -> PipFailure:
    """Turn pip's output into a cause and a next step."""
    match = NO_MATCH.search(output)
    # An index that could not be reached also ends in "no matching distribution", but then no version was seen at all.
    unreachable = "connection broken by" in output and not re.search(r"from versions: (?!none)", output)
    if match and not unreachable:
        missing = match[1] or match[2]
        return PipFailure(
            f"{doing} failed: the package index has no build of {missing} for this machine ({platform_words()}).",
            f"Details: {log}",
            missing=missing,
        )
    for pattern, cause, remedy in CAUSES:
        if pattern.search(output):
            return PipFailure(f"{doing} failed: {cause}.", f"{remedy} Details: {log}")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines
    return PipFailure(f"{doing} failed: {errors[-1] if errors else 'pip said nothing'}", f"Details: {log}")


def platform_words() -> str:
    """Such as "linux x86_64, Python 3.12"."""
    import platform

    return f"{sys.platform} {platform.machine()}, Python {sys.version_info[0]}.{sys.version_info[1]}"
