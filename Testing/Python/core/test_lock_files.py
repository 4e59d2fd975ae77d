"""The lock files: every package pinned, nothing missing, nothing that could bring another torch."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scripts.locks import normalized, read_pins

PACKAGE_SETS = ("core", "browser", "dev")


@pytest.fixture(scope="module")
def locked(repository: Path) -> dict[str, str]:
    """All pins for Linux, of all sets."""
    pins: dict[str, str] = {}
    for name in PACKAGE_SETS:
        new = read_pins(repository / "requirements" / f"{name}.txt", "linux")
        assert not set(new) & set(pins), f"{name}.txt repeats {set(new) & set(pins)}"
        pins.update(new)
    return pins


def test_no_lock_file_can_bring_a_torch_of_its_own(locked: dict[str, str]) -> None:
    assert not [n for n in locked if n.startswith(("torch", "nvidia", "triton", "cuda")) and n != "torch"]
    assert "torch" not in locked


def test_the_cuda_libraries_are_pinned_apart_from_the_rest(repository: Path, locked: dict[str, str]) -> None:
    pins = read_pins(repository / "requirements" / "cuda.txt", "linux")
    assert {"nvidia-cublas", "triton"} <= set(pins)
    assert not set(pins) & set(locked)


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
