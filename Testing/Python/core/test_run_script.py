"""run.py: the right Python, the right torch, an environment that is made once and repaired, messages instead of traces.

Nothing here touches the real `.venv` or a network: pip works on wheels that the tests write.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

import run
from scripts import commands, system_packages, torch_build
from scripts.console import SetupError
from scripts.environment import Environment
from scripts.locks import normalized, read_pins
from scripts.pip_step import PipFailure, explain

SETS = ("core", "browser", "dev")


@pytest.fixture
def path_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`path_with(name=shell_text, …)`: PATH holds exactly these programs."""

    def make(**programs: str) -> Path:
        folder = tmp_path / "programs"
        folder.mkdir()
        for name, text in programs.items():
            program = folder / name.replace("_", "-").replace("-dot-", ".")
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder))
        return folder

    return make


# --- which Python


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


# --- which torch


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("echo 'GPU 0: Some Card (UUID: GPU-1)'", True),
        ("echo 'No devices were found'; exit 6", False),
        ("echo 'driver/library version mismatch' >&2; exit 18", False),
        (None, False),
    ],
)
def test_a_gpu_is_one_that_its_own_tool_lists(path_with: Callable[..., Path], program: str | None, found: bool) -> None:
    path_with(**({"nvidia_smi": program} if program else {}))
    assert torch_build.has_nvidia_gpu() is found
    assert torch_build.wants_cuda({}) is found
    assert torch_build.wants_cuda({"MEDCONV_TORCH": "cpu"}) is False
    assert torch_build.wants_cuda({"MEDCONV_TORCH": "CUDA"}) is True


def test_a_misspelt_choice_of_torch_is_refused() -> None:
    with pytest.raises(SetupError, match="gpu"):
        torch_build.wants_cuda({"MEDCONV_TORCH": "gpu"})


@pytest.mark.parametrize(
    ("installed", "without_gpu", "with_gpu"),
    [
        (None, False, False),
        ("2.13.0+cpu", True, False),
        ("2.13.0", True, True),
        ("2.13.0+cu130", True, True),
        ("2.13.1+cpu", False, False),
        ("2.12.0", False, False),
    ],
)
def test_an_installed_torch_stays_if_it_fits(installed: str | None, without_gpu: bool, with_gpu: bool) -> None:
    assert torch_build.acceptable(installed, cuda=False) is without_gpu
    assert torch_build.acceptable(installed, cuda=True) is with_gpu


class FakePip:
    """Records what pip would have been asked; fails for the requirements it is told to."""

    def __init__(self, **failures: PipFailure) -> None:
        self.calls: list[list[str]] = []
        self.failures = failures

    def __call__(self, arguments: list[str], _doing: str) -> None:
        self.calls.append(arguments)
        kind = "cpu" if arguments[-1].endswith("+cpu") else "plain"
        if kind in self.failures:
            raise self.failures[kind]


NO_CPU_BUILD = PipFailure("no build", "", missing="torch==2.13.0+cpu")
NO_NETWORK = PipFailure("the package index could not be reached", "try again")


def install_torch(pip: FakePip, cuda: bool = False, platform: str = "linux", free_gb: float = 99, **env: str) -> None:
    torch_build.install(pip, Path("core.txt"), cuda, platform=platform, environment=env, free_gb=free_gb)


def test_without_a_gpu_the_cpu_build_comes_without_its_dependencies() -> None:
    pip = FakePip()
    install_torch(pip, free_gb=1)
    assert pip.calls == [["install", "--no-deps", "torch==2.13.0+cpu"]]


def test_with_a_gpu_the_cuda_build_comes_with_its_dependencies() -> None:
    pip = FakePip()
    install_torch(pip, cuda=True)
    assert pip.calls == [["install", "--constraint", "core.txt", "torch==2.13.0"]]


def test_the_large_build_is_announced_before_it_is_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    said_before: list[str] = []

    class Watching(FakePip):
        def __call__(self, arguments: list[str], doing: str) -> None:
            if not arguments[-1].endswith("+cpu"):
                said_before.append(capsys.readouterr().out)
            super().__call__(arguments, doing)

    pip = Watching(cpu=NO_CPU_BUILD)
    install_torch(pip)
    assert [call[-1] for call in pip.calls] == ["torch==2.13.0+cpu", "torch==2.13.0"]
    assert "--no-deps" not in pip.calls[1]
    assert "up to 8 GB on disk" in said_before[0]
    assert "MEDCONV_TORCH_INDEX" in said_before[0]


def test_the_large_build_is_not_begun_where_it_does_not_fit() -> None:
    pip = FakePip(cpu=NO_CPU_BUILD)
    with pytest.raises(SetupError, match=r"only 3\.0 GB are free"):
        install_torch(pip, free_gb=3.0)
    assert len(pip.calls) == 1


def test_whoever_asks_for_the_cpu_build_never_gets_the_large_one() -> None:
    pip = FakePip(cpu=NO_CPU_BUILD)
    with pytest.raises(SetupError, match="no CPU build") as caught:
        install_torch(pip, MEDCONV_TORCH="cpu")
    assert "MEDCONV_TORCH_INDEX" in caught.value.remedy
    assert len(pip.calls) == 1


def test_a_network_failure_is_no_reason_to_fetch_the_large_build() -> None:
    pip = FakePip(cpu=NO_NETWORK)
    with pytest.raises(SetupError, match="could not be reached"):
        install_torch(pip)
    assert len(pip.calls) == 1


@pytest.mark.parametrize("cuda", [False, True])
def test_the_person_s_own_index_is_passed_on(cuda: bool) -> None:
    pip = FakePip()
    install_torch(pip, cuda=cuda, MEDCONV_TORCH_INDEX="file:///wheels")
    position = pip.calls[0].index("--extra-index-url")
    assert pip.calls[0][position + 1] == "file:///wheels"


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_than_linux_the_plain_build_is_the_cpu_build(platform: str) -> None:
    pip = FakePip()
    install_torch(pip, platform=platform)
    assert pip.calls == [["install", "--no-deps", "torch==2.13.0"]]


# --- lock files


@pytest.fixture(scope="module")
def locked(repository: Path) -> dict[str, str]:
    """All pins for Linux, of all sets."""
    pins: dict[str, str] = {}
    for name in SETS:
        new = read_pins(repository / "requirements" / f"{name}.txt", "linux")
        assert not set(new) & set(pins), f"{name}.txt repeats {set(new) & set(pins)}"
        pins.update(new)
    return pins


def test_no_lock_file_can_bring_a_torch_of_its_own(locked: dict[str, str]) -> None:
    assert not [n for n in locked if n.startswith(("torch", "nvidia", "triton", "cuda")) and n != "torch"]
    assert "torch" not in locked


def test_the_lock_files_are_complete(locked: dict[str, str]) -> None:
    """Every requirement of every locked package, as installed here, is locked too, in a version it accepts."""
    # timm_3d's own helpers for torchvision datasets and model hubs; the tests use neither.
    left_out = {("timm-3d", "torchvision"), ("timm-3d", "huggingface-hub")}
    extras = {"trame-slicer": "standalone"}
    wrong = []
    for name in [*locked, "torch"]:
        for text in importlib.metadata.requires(name) or []:
            need = Requirement(text)
            wanted = normalized(need.name)
            if need.marker and not need.marker.evaluate({"extra": extras.get(name, "")}):
                continue
            if (name, wanted) in left_out or wanted == "torch" or wanted.startswith(("nvidia", "triton", "cuda")):
                continue
            if wanted not in locked or not need.specifier.contains(locked[wanted], prereleases=True):
                wrong.append(f"{name} needs {text}, locked is {locked.get(wanted)}")
    assert wrong == []


def test_this_environment_has_the_locked_versions(locked: dict[str, str]) -> None:
    assert {name: importlib.metadata.version(name) for name in locked} == locked


@pytest.mark.parametrize("line", ["numpy", "numpy>=2", "numpy==2 ; python_version < '3'", "-r other.txt"])
def test_a_line_that_leaves_pip_a_choice_is_refused(tmp_path: Path, line: str) -> None:
    lock = tmp_path / "core.txt"
    lock.write_text(f"# fine\nPillow_A==1.0  # why\n{line}\n")
    with pytest.raises(ValueError, match=r"core\.txt, line 3"):
        read_pins(lock)


def test_a_platform_s_own_pin_counts_only_there(tmp_path: Path) -> None:
    lock = tmp_path / "core.txt"
    lock.write_text('a==1\nB_b==2 ; sys_platform == "win32"\n')
    assert read_pins(lock, "linux") == {"a": "1"}
    assert read_pins(lock, "win32") == {"a": "1", "b-b": "2"}


# --- the environment


def write_wheel(folder: Path, name: str, version: str) -> None:
    """A pure wheel with one module."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


class TinyEnvironment(Environment):
    """The real logic with two tiny packages; torch and the project are tiny packages too."""

    def pip(self, arguments: list[str], doing: str) -> None:
        arguments = ["+cpu" if a == "--editable" else a for a in arguments]
        if str(self.root) in arguments:
            arguments = ["install", "--no-deps", "bonedensity_medconv==0.1"]
        super().pip(arguments, doing)


@pytest.fixture(scope="module")
def fresh_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty virtual environment with pip, to be copied: making one takes seconds."""
    folder = tmp_path_factory.mktemp("venv") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyEnvironment:
    root, wheels = tmp_path / "checkout", tmp_path / "wheels"
    (root / "requirements").mkdir(parents=True)
    (root / "BoneDensityMedConv" / "medconv").mkdir(parents=True)
    wheels.mkdir()
    (root / "pyproject.toml").write_text("")
    (root / "BoneDensityMedConv" / "medconv" / "__init__.py").write_text("")
    (root / "requirements" / "core.txt").write_text("alpha==1.0\n")
    (root / "requirements" / "dev.txt").write_text("beta==1.0\n")
    for name, version in (("alpha", "1.0"), ("alpha", "2.0"), ("beta", "1.0"), ("bonedensity_medconv", "0.1")):
        write_wheel(wheels, name, version)
    write_wheel(wheels, "torch", "2.13.0+cpu")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("MEDCONV_TORCH", "cpu")
    return TinyEnvironment(root)


def version_in(environment: Environment, module: str) -> str:
    command = [str(environment.python), "-c", f"import {module}; print({module}.version)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commands_of_pip(environment: Environment) -> list[str]:
    return [line for line in environment.log.read_text().splitlines() if line.startswith("$ ")]


def test_an_environment_is_made_once_and_then_left_alone(tiny: TinyEnvironment) -> None:
    tiny.ensure(("core", "dev"))
    assert [version_in(tiny, name) for name in ("alpha", "beta", "torch")] == ["1.0", "1.0", "2.13.0+cpu"]
    before = len(commands_of_pip(tiny))
    started = time.monotonic()
    TinyEnvironment(tiny.root).ensure(("core", "dev"))
    assert time.monotonic() - started < 1.0
    assert len(commands_of_pip(tiny)) == before, "a second run must not start pip"

    # A changed lock file is followed, and nothing else is touched.
    (tiny.root / "requirements" / "core.txt").write_text("alpha==2.0\n")
    TinyEnvironment(tiny.root).ensure(("core", "dev"))
    assert version_in(tiny, "alpha") == "2.0"
    assert len(commands_of_pip(tiny)) == before + 1

    # Someone's own pip install moved a pinned package: it is put back.
    subprocess.run([str(tiny.python), "-m", "pip", "install", "-q", "alpha==1.0"], check=True)
    TinyEnvironment(tiny.root).ensure(("core",))
    assert version_in(tiny, "alpha") == "2.0"


def test_an_interrupted_set_up_goes_on_where_it_stopped(
    tiny: TinyEnvironment, fresh_venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(fresh_venv, tiny.venv, symlinks=True)
    monkeypatch.setattr(tiny, "install_torch", lambda _cuda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tiny.ensure(("core", "dev"))
    assert set(json.loads(tiny.stamp_file.read_text())) == {"core"}
    # The power failed while pip unpacked alpha's neighbour: files without pip's closing mark.
    cut_off = tiny.site_packages() / "beta-1.0.dist-info"
    cut_off.mkdir()
    (cut_off / "METADATA").write_text("Metadata-Version: 2.1\nName: beta\nVersion: 1.0\n")

    again = TinyEnvironment(tiny.root)
    again.ensure(("core", "dev"))
    assert version_in(again, "beta") == "1.0"
    assert sum("core.txt" in line for line in commands_of_pip(again)) == 1, "the finished set is not installed twice"
    assert set(again.stamp) == {"core", "torch", "dev", "project"}


@pytest.mark.parametrize("damage", ["python_does_not_start", "no_pip_and_no_stamp"])
def test_a_broken_environment_is_made_again(
    tiny: TinyEnvironment, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tiny.venv)], check=True)
    if damage == "python_does_not_start":
        tiny.python.unlink()
        tiny.python.write_text("#!/bin/sh\nexit 1\n")
        tiny.python.chmod(0o755)
    tiny.ensure(("core",))
    assert version_in(tiny, "alpha") == "1.0"
    assert "making it again" in capsys.readouterr().out


def test_a_package_that_cannot_be_had_is_named_and_its_step_stays_open(tiny: TinyEnvironment, fresh_venv: Path) -> None:
    shutil.copytree(fresh_venv, tiny.venv, symlinks=True)
    (tiny.root / "requirements" / "core.txt").write_text("alpha==3.0\n")
    with pytest.raises(PipFailure) as caught:
        tiny.ensure(("core",))
    assert "Installing the core failed" in caught.value.cause
    assert "alpha==3.0" in caught.value.cause
    assert "core" not in json.loads(tiny.stamp_file.read_text())


@pytest.mark.parametrize(
    ("output", "words", "missing"),
    [
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError()'\n"
            "ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu (from versions: none)\n"
            "ERROR: No matching distribution found for torch==2.13.0+cpu",
            "could not be reached",
            "",
        ),
        (
            "ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu (from versions: 2.12.0)\n"
            "ERROR: No matching distribution found for torch==2.13.0+cpu",
            "has no build of torch==2.13.0+cpu",
            "torch==2.13.0+cpu",
        ),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full", ""),
        ("ERROR: [Errno 13] Permission denied: 'x'", "could not be written", ""),
        ("Collecting a\nERROR: something new\n[notice] a newer pip", "something new", ""),
        ("", "pip said nothing", ""),
    ],
)
def test_pip_s_output_becomes_a_cause_in_plain_words(output: str, words: str, missing: str) -> None:
    failure = explain(output, "Installing x", Path("setup.log"))
    assert words in failure.cause
    assert failure.missing == missing
    assert "setup.log" in failure.remedy


# --- system packages


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


# --- commands


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
    monkeypatch.setattr(commands, "sample", lambda _environment: ("ct.nii.gz", "mask.nii.gz", 31))
    monkeypatch.setattr(system_packages, "ensure_for_tests", lambda: None)
    return noted


def test_test_runs_lint_format_types_and_then_pytest_with_the_person_s_arguments(calls: SimpleNamespace) -> None:
    assert commands.run(["test", "--", "-k", "crop", "--", "x"]) == 0
    assert calls.sets == SETS
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
    assert calls.sets == ("core", "browser")
    (command,) = calls.commands
    assert command[:3] == ["-m", "medconv.cli", "panel"]
    assert command[command.index("--ct") + 1] == str(Path("ct.nii.gz").resolve())
    assert command[command.index("--label") + 1] == "31"
    assert command[-3:] == ["--port", "8123", "--no-open"]


def test_without_a_browser_the_result_is_told_and_left_in_files(
    calls: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [tmp_path / "my.nii.gz", tmp_path / "mask.nii.gz"]
    for path in own:
        path.touch()
    answer = {
        "t_score_class": "osteopenia",
        "probabilities": {"normal": 0.2, "osteopenia": 0.5, "osteoporosis": 0.3},
    }

    def predict(_environment: object, arguments: list[str]) -> int:
        calls.commands.append(arguments)
        folder = Path(arguments[-1])
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(answer))
        return 0

    monkeypatch.setattr(commands, "call", predict)
    out = tmp_path / "out"
    code = commands.run(["demo", "--headless", str(out), "--ct", str(own[0]), "--mask", str(own[1]), "--label", "20"])
    assert code == 0
    assert calls.sets == ("core",), "no browser package is needed"
    assert calls.commands[0][2:] == ["predict", str(own[0]), "--mask", str(own[1]), "--label", "20", "--out", str(out)]
    told = capsys.readouterr().out
    assert "osteopenia   (normal 20.0 %, osteopenia 50.0 %, osteoporosis 30.0 %)" in told
    assert "result.json" in told


def test_the_exit_code_of_a_refused_ct_is_passed_on(calls: SimpleNamespace, tmp_path: Path) -> None:
    calls.codes = {"medconv.cli": 3}
    assert commands.run(["demo", "--headless", str(tmp_path)]) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--ct", "x.nii.gz"], "needs all of --ct FILE, --mask FILE and --label N"),
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
