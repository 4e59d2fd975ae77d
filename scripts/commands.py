"""The commands of run.py: setup, demo, test."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from scripts import system_packages
from scripts.console import SetupError, complain, say
from scripts.environment import Environment

ROOT = Path(__file__).resolve().parent.parent
EVERYTHING = ("core", "browser", "segment", "fast", "batch", "dev")
CHECKS = (
    ("lint", ["-m", "ruff", "check", "."]),
    ("format", ["-m", "ruff", "format", "--check", "."]),
    ("types", ["-m", "mypy"]),
)


def run(arguments: list[str]) -> int:
    """Parse, do, and turn every expected failure into words. Returns the exit code."""
    # Everything after a bare "--" belongs to pytest.
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options, rest = parser().parse_known_args(arguments[:cut])
    extra = rest + arguments[cut + 1 :]
    if extra and options.command != "test":
        parser().error(f"unknown argument: {extra[0]}")
    try:
        return int(options.action(options, extra))
    except SetupError as error:
        complain(error)
        return error.exit_code


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="run.py", description="Set up, try and test the project in its own .venv.")
    commands = result.add_subparsers(dest="command", required=True, metavar="{demo,test,setup}")
    demo = commands.add_parser("demo", help="analyse a sample CT (or your own) and show it in a browser panel")
    demo.add_argument("--headless", metavar="DIR", type=Path, help="no browser: write the result files to DIR")
    demo.add_argument("--ct", metavar="FILE", type=Path, help="your own CT: NIfTI, NRRD or a DICOM folder")
    demo.add_argument("--simulated", action="store_true", help="a simulated CT, in which L1 is found by itself")
    demo.add_argument("--mask", metavar="FILE", type=Path, help="the vertebra mask of your CT; without it, L1 is found")
    demo.add_argument("--label", metavar="N", type=int, help="the label of L1 in that mask")
    demo.add_argument("--port", metavar="N", type=int, help="port of the panel on 127.0.0.1")
    demo.add_argument("--no-open", action="store_true", help="do not open the browser, only print the address")
    demo.set_defaults(action=run_demo)
    test = commands.add_parser("test", help="lint, types and every test; arguments after -- go to pytest")
    test.set_defaults(action=run_test)
    setup = commands.add_parser("setup", help="everything that any medconv command needs, into .venv (about 4 GB)")
    setup.set_defaults(action=run_setup)
    return result


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep two set-ups from working on the same .venv at once (where the system can lock a file)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (root / "run.py").open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("Another run.py is setting up this folder; waiting for it ...")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def prepare(*sets: str) -> Environment:
    """The environment with the named package sets in it."""
    environment = Environment(ROOT)
    with alone(ROOT):
        environment.ensure(sets)
    return environment


def run_setup(_options: argparse.Namespace, _extra: list[str]) -> int:
    started = time.monotonic()
    environment = prepare(*EVERYTHING)
    say(f"Ready: {environment.python} (torch {environment.stamp['torch']}, {time.monotonic() - started:.1f} s).")
    say(f"The command: {environment.python.with_name('medconv')} --help")
    return 0


# --- test


def run_test(_options: argparse.Namespace, extra: list[str]) -> int:
    """Lint, format, types, then pytest. pytest's summary is the last line; failed checks are named before it."""
    environment = prepare(*EVERYTHING)
    system_packages.ensure_for_tests()
    failed = []
    for name, command in CHECKS:
        say(f"== {name}: {' '.join(command[1:])}")
        if call(environment, command) != 0:
            failed.append(name)
    if failed:
        say(f"== failed before the tests: {', '.join(failed)} (the run will count as failed; tests go on)")
    say(f"== tests: {' '.join(['pytest', *extra])}")
    code = call(environment, ["-m", "pytest", *extra])
    return code or (1 if failed else 0)


def call(environment: Environment, arguments: list[str]) -> int:
    """Run the environment's Python in the project's folder and wait. Ctrl+C reaches the child first."""
    process = subprocess.Popen([str(environment.python), *arguments], cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
            process.wait(timeout=15)
        if process.poll() is None:
            process.kill()
        raise


# --- demo


def run_demo(options: argparse.Namespace, _extra: list[str]) -> int:
    check_case(options)
    for path in (options.ct, options.mask):
        if path is not None and not path.exists():
            raise SetupError(f"{path} does not exist.", "Check the path.", 2)
    environment = prepare(*(("core", "segment") if options.headless else ("core", "browser", "segment")))
    if options.ct:
        ct, mask, label = options.ct, options.mask, options.label
    else:
        ct, mask, label = sample(environment, options.simulated)
    case = ["--mask", str(Path(mask).resolve())] if mask else []
    if mask and not options.ct:  # the sample's mask holds L1's neighbours as well: named, they let the level be checked
        case += ["--label-map", "totalsegmentator"]
    elif mask and label is not None:
        case += ["--label", str(label)]
    if options.headless:
        if options.simulated:
            case = ["--segmenter", "demonstration"]
        return predict(environment, Path(ct).resolve(), case, options.headless.resolve())
    system_packages.warn_before_demo()
    command = ["-m", "medconv.cli", "panel", "--ct", str(Path(ct).resolve()), *case]
    if options.port is not None:
        command += ["--port", str(options.port)]
    if options.no_open:
        command.append("--no-open")
    say("Starting the panel (Ctrl+C ends it) ...")
    try:
        return call(environment, command)
    except KeyboardInterrupt:
        say("Panel closed.")
        return 0


def check_case(options: argparse.Namespace) -> None:
    """Raise SetupError for a case that can't be meant."""
    if options.simulated and (options.ct or options.mask):
        raise SetupError("--simulated makes its own CT.", "Leave out --ct and --mask, or --simulated.", 2)
    if options.mask and not options.ct:
        raise SetupError("--mask belongs to a CT of yours.", "Add --ct FILE.", 2)
    if options.label is not None and not options.mask:
        raise SetupError("--label is a number in a mask.", "Add --mask FILE.", 2)


def sample(environment: Environment, simulated: bool) -> tuple[str, str | None, int | None]:
    """CT, mask and label of the sample case, fetched once and kept; the simulated one has no mask."""
    if simulated:
        say("Looking for the simulated CT (computed once) ...")
    else:
        say("Looking for the sample CT (fetched once through pip, 38 MB) ...")
    command = [str(environment.python), "-m", "medconv.sample_data", *(["--simulated"] if simulated else [])]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if answer.returncode != 0:
        raise SetupError("no sample CT could be had (see above).", "Use your own: --ct FILE --mask FILE --label N")
    case = json.loads(answer.stdout.splitlines()[-1])
    say(f"Sample: {case['title']}\n  {case['licence_note']}")
    return (case["ct"], None, None) if simulated else (case["ct"], case["mask"], case["label"])


def predict(environment: Environment, ct: Path, case: list[str], folder: Path) -> int:
    """The command line does the work and tells class and probabilities; the files are named here."""
    code = call(environment, ["-m", "medconv.cli", "predict", str(ct), *case, "--out", str(folder)])
    if code != 0:
        return code
    say(f"Files in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    return 0
