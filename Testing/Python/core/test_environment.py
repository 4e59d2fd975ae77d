"""The project's environment: made once, repaired, resumed. pip works on wheels that the tests write."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.environment import Environment
from scripts.pip_step import PipFailure, explain


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


STAND_IN = "0.28.0+stand.in.1"


class TinyEnvironment(Environment):
    """The real logic with two tiny packages; torch and the project are tiny packages too."""

    def pip(self, arguments: list[str], doing: str) -> None:
        arguments = ["+cpu" if a == "--editable" else a for a in arguments]
        if str(self.root) in arguments:
            arguments = ["install", "--no-deps", "bonedensity_medconv==0.1"]
        folder = str(self.root / "requirements" / "torchvision_stand_in")
        arguments = [f"torchvision=={STAND_IN}" if a == folder else a for a in arguments]
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
    (root / "requirements" / "torchvision_stand_in").mkdir(parents=True)
    (root / "BoneDensityMedConv" / "medconv").mkdir(parents=True)
    wheels.mkdir()
    (root / "pyproject.toml").write_text("")
    (root / "BoneDensityMedConv" / "medconv" / "__init__.py").write_text("")
    (root / "requirements" / "core.txt").write_text("alpha==1.0\n")
    (root / "requirements" / "dev.txt").write_text("beta==1.0\n")
    (root / "requirements" / "segment.txt").write_text("beta==1.0\n")
    (root / "requirements" / "torchvision_stand_in" / "pyproject.toml").write_text(
        f'[project]\nname = "torchvision"\nversion = "{STAND_IN}"\n'
    )
    for name, version in (("alpha", "1.0"), ("alpha", "2.0"), ("beta", "1.0"), ("bonedensity_medconv", "0.1")):
        write_wheel(wheels, name, version)
    write_wheel(wheels, "torch", "2.13.0+cpu")
    write_wheel(wheels, "torchvision", STAND_IN)
    write_wheel(wheels, "torchvision", "0.29.0")
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
    TinyEnvironment(tiny.root).ensure(("core", "dev"))
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


def test_the_project_s_own_packages_belong_to_their_set(tiny: TinyEnvironment, fresh_venv: Path) -> None:
    shutil.copytree(fresh_venv, tiny.venv, symlinks=True)
    tiny.ensure(("core", "segment"))
    assert [version_in(tiny, name) for name in ("beta", "torchvision")] == ["1.0", STAND_IN]
    (command,) = [line for line in commands_of_pip(tiny) if "segment.txt" in line]
    assert "--no-deps" in command
    assert "--no-build-isolation" in command, "what builds a package is pinned and there already"
    before = len(commands_of_pip(tiny))
    TinyEnvironment(tiny.root).ensure(("core", "segment"))
    assert len(commands_of_pip(tiny)) == before

    # pip brought the real one, for another package: it would not load beside this torch.
    subprocess.run([str(tiny.python), "-m", "pip", "install", "-q", "torchvision==0.29.0"], check=True)
    TinyEnvironment(tiny.root).ensure(("core", "segment"))
    assert version_in(tiny, "torchvision") == STAND_IN


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
        (
            "ERROR: Cannot install torch==2.13.0+cpu because these package versions have conflicting dependencies.\n"
            "The conflict is caused by:\n"
            "    The user requested torch==2.13.0+cpu\n"
            "    The user requested (constraint) torch<=2.14.1\n"
            "ERROR: ResolutionImpossible: for help visit",
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
