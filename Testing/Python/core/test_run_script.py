"""run.py: the right Python, one command for each job, messages instead of traces. Nothing here installs anything."""

from __future__ import annotations

import ast
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import run
from scripts import commands, system_packages
from scripts.console import SetupError

PACKAGE_SETS = ("core", "browser", "segment", "fast", "batch", "dev")


def test_the_launcher_can_be_read_by_old_pythons(repository: Path) -> None:
    ast.parse((repository / "run.py").read_text(encoding="utf-8"), feature_version=(3, 6))


def test_another_python_is_told_what_is_needed(
    path_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path_with()
    monkeypatch.setattr(run, "SUPPORTED", ((3, 1),))
    assert run.main(["demo", "--no-open"]) == 2
    told = capsys.readouterr().err
    assert "needs Python 3.11 or 3.12" in told
    assert "run.py demo --no-open" in told


def test_a_supported_python_on_the_path_takes_over_with_all_arguments(
    path_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A launcher that is there but does not start (as pyenv's do) is passed over.
    takes_over = 'if [ "$1" = -c ]; then exit 0; fi\necho "$@" > "${0%/*}/called"\nexit 7'
    folder = path_with(python3_dot_12="exit 127", python3_dot_11=takes_over)
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert run.main(["test", "-k", "crop"]) == 7
    called = (folder / "called").read_text().split()
    assert called[0].endswith("run.py")
    assert called[1:] == ["test", "-k", "crop"]


def test_missing_libraries_are_named_by_their_debian_packages(
    path_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path_with(ldconfig="echo '	libGL.so.1 (libc6,x86-64) => /lib/libGL.so.1'", chromium="")
    monkeypatch.setattr(sys, "platform", "linux")
    assert system_packages.missing_packages({"libGL.so.1": "libgl1", "libEGL.so.1": "libegl1"}, True) == ["libegl1"]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert system_packages.missing_packages({"libEGL.so.1": "libegl1"}, True) == []


def test_who_is_not_root_gets_the_exact_command(
    path_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path_with(apt_get="exit 1")
    monkeypatch.setattr(system_packages, "missing_packages", lambda *_, **__: ["chromium", "libegl1"])
    monkeypatch.setattr(system_packages.os, "geteuid", lambda: 1000)
    with pytest.raises(SetupError) as caught:
        system_packages.ensure_for_tests()
    assert "sudo apt-get install -y --no-install-recommends chromium libegl1" in caught.value.remedy


@pytest.mark.parametrize("works", [True, False])
def test_root_on_debian_has_them_installed(
    path_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    code = 0 if works else 100
    folder = path_with(apt_get=f'echo "$@" >> "${{0%/*}}/called"; echo E: no such package >&2; exit {code}')
    monkeypatch.setattr(system_packages, "missing_packages", lambda *_, **__: ["chromium"])
    monkeypatch.setattr(system_packages.os, "geteuid", lambda: 0)
    if works:
        system_packages.ensure_for_tests()
        update, install = (folder / "called").read_text().splitlines()
        assert update.startswith("update")
        assert install.startswith("install -y --no-install-recommends chromium")
    else:
        with pytest.raises(SetupError, match="no such package"):
            system_packages.ensure_for_tests()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Commands run on an environment that does nothing but note what it is asked; `codes` sets exit codes by tool."""
    noted = SimpleNamespace(sets=(), commands=[], codes={})

    def prepare(*sets: str) -> SimpleNamespace:
        noted.sets = sets
        return SimpleNamespace(python=Path(sys.executable), stamp={"torch": "2.13.0+cpu"})

    def call(_environment: object, arguments: list[str]) -> int:
        noted.commands.append(arguments)
        return noted.codes.get(arguments[1], 0)

    monkeypatch.setattr(commands, "prepare", prepare)
    monkeypatch.setattr(commands, "call", call)
    monkeypatch.setattr(
        commands,
        "sample",
        lambda _environment, simulated: ("ct.nii.gz", *((None, None) if simulated else ("mask.nii.gz", 31))),
    )
    monkeypatch.setattr(system_packages, "ensure_for_tests", lambda: None)
    return noted


def test_test_runs_lint_format_types_and_then_pytest_with_the_person_s_arguments(calls: SimpleNamespace) -> None:
    assert commands.run(["test", "--", "-k", "crop", "--", "x"]) == 0
    assert calls.sets == PACKAGE_SETS
    assert [c[1:] for c in calls.commands] == [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["pytest", "-k", "crop", "--", "x"],
    ]


def test_failed_lint_and_types_fail_the_run_and_are_named_before_pytest(
    calls: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.codes = {"mypy": 1, "ruff": 1}
    assert commands.run(["test"]) == 1
    assert calls.commands[-1] == ["-m", "pytest"], "pytest runs all the same, so that its summary is the last line"
    lines = capsys.readouterr().out.splitlines()
    assert "failed before the tests: lint, format, types" in lines[-2]


def test_no_test_at_all_is_a_failure(calls: SimpleNamespace) -> None:
    calls.codes = {"pytest": 5}
    assert commands.run(["test"]) == 5


def test_the_demonstration_opens_the_panel_on_the_sample(calls: SimpleNamespace) -> None:
    assert commands.run(["demo", "--port", "8123", "--no-open"]) == 0
    assert calls.sets == ("core", "browser", "segment")
    (command,) = calls.commands
    assert command[:3] == ["-m", "medconv.cli", "panel"]
    assert command[command.index("--ct") + 1] == str(Path("ct.nii.gz").resolve())
    assert command[command.index("--label-map") + 1] == "totalsegmentator", "L1's neighbours are read as well"
    assert command[-3:] == ["--port", "8123", "--no-open"]


def test_without_a_browser_the_result_is_left_in_files_that_are_named(
    calls: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [tmp_path / "my.nii.gz", tmp_path / "mask.nii.gz"]
    for path in own:
        path.touch()

    def predict(_environment: object, arguments: list[str]) -> int:
        calls.commands.append(arguments)
        folder = Path(arguments[-1])
        folder.mkdir()
        (folder / "result.json").touch()
        return 0

    monkeypatch.setattr(commands, "call", predict)
    out = tmp_path / "out"
    code = commands.run(["demo", "--headless", str(out), "--ct", str(own[0]), "--mask", str(own[1]), "--label", "20"])
    assert code == 0
    assert calls.sets == ("core", "segment"), "no browser package is needed"
    assert calls.commands[0][2:] == ["predict", str(own[0]), "--mask", str(own[1]), "--label", "20", "--out", str(out)]
    told = capsys.readouterr().out
    assert f"Files in {out}: result.json" in told


def test_in_the_simulated_case_l1_is_found_by_the_network_that_needs_no_download(
    calls: SimpleNamespace, tmp_path: Path
) -> None:
    calls.codes = {"medconv.cli": 3}  # nothing is written here
    commands.run(["demo", "--simulated", "--headless", str(tmp_path)])
    (command,) = calls.commands
    assert command[4:6] == ["--segmenter", "demonstration"]
    assert "--mask" not in command


def test_a_ct_without_a_mask_is_left_to_the_segmenter(calls: SimpleNamespace, tmp_path: Path) -> None:
    own = tmp_path / "my.nii.gz"
    own.touch()
    assert commands.run(["demo", "--ct", str(own)]) == 0
    (command,) = calls.commands
    assert command == ["-m", "medconv.cli", "panel", "--ct", str(own)]


def test_the_samples_level_is_checked_against_its_neighbours(calls: SimpleNamespace, tmp_path: Path) -> None:
    calls.codes = {"medconv.cli": 3}
    commands.run(["demo", "--headless", str(tmp_path)])
    (command,) = calls.commands
    assert command[6:8] == ["--label-map", "totalsegmentator"]


def test_the_exit_code_of_a_refused_ct_is_passed_on(calls: SimpleNamespace, tmp_path: Path) -> None:
    calls.codes = {"medconv.cli": 3}
    assert commands.run(["demo", "--headless", str(tmp_path)]) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--mask", "m.nii.gz"], "--mask belongs to a CT of yours"),
        (["demo", "--ct", "x.nii.gz", "--label", "31"], "--label is a number in a mask"),
        (["demo", "--simulated", "--ct", "x.nii.gz"], "--simulated makes its own CT"),
        (["demo", "--ct", "x.nii.gz", "--mask", "m.nii.gz", "--label", "31"], "x.nii.gz does not exist"),
        (["demo", "--colour"], "unknown argument: --colour"),
        ([], "required"),
    ],
)
def test_wrong_usage_is_one_clear_message_without_a_trace(repository: Path, arguments: list[str], words: str) -> None:
    answer = subprocess.run(
        [sys.executable, "run.py", *arguments], cwd=repository, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 2
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr + answer.stdout


def test_ci_runs_the_same_command(repository: Path) -> None:
    script = repository / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert "run.py test </dev/null" in script.read_text()
    bash = shutil.which("bash")
    assert bash
    assert subprocess.run([bash, "-n", str(script)]).returncode == 0
