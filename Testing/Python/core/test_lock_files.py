"""The lock files: every package pinned, nothing missing, nothing that could bring another torch."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scripts.locks import normalized, read_own_version, read_pins

PACKAGE_SETS = ("core", "browser", "segment", "fast", "batch", "dev")
# What run.py installs together: demo --headless, demo, and test.
TOGETHER = (("core", "segment"), ("core", "browser", "segment"), PACKAGE_SETS)
MACHINES = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    "darwin": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    "win32": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
}
ONLY_ON_WINDOWS = {"colorama"}  # and needs nothing itself
# Package → what it asks for and does without here, because only parts of it that are not used import that.
LEFT_OUT = {
    # previews, reports in HTML, DICOM output, label names in NIfTI headers
    "totalsegmentator": {"blosc", "dipy", "fury", "imgkit", "pyarrow", "xmltodict", "xvfbwrapper"},
    # pictures of networks, compressed TIFF; yacs is not imported at all
    "nnunetv2": {"graphviz", "imagecodecs", "yacs"},
    # Python 2
    "batchgenerators": {"future", "unittest2"},
    # compressed DICOM
    "dicom2nifti": {"python-gdcm"},
    # the hub of models; torchvision's stand-in is a package of the project's own
    "timm": {"huggingface-hub", "pyyaml", "safetensors", "torchvision"},
    "timm-3d": {"huggingface-hub", "torchvision"},
    # sends usage data
    "openvino": {"openvino-telemetry"},
}
MODULES_LEFT_OUT = (
    "blosc", "dipy", "fury", "future", "gdcm", "graphviz", "huggingface_hub", "imagecodecs", "imgkit", "pyarrow",
    "safetensors", "unittest2", "xmltodict", "xvfbwrapper", "yacs", "yaml",
)  # fmt: skip


def read(repository: Path, *names: str, platform: str = "linux") -> dict[str, str]:
    """The pins of several sets together."""
    pins: dict[str, str] = {}
    for name in names:
        pins.update(read_pins(repository / "requirements" / f"{name}.txt", platform))
    return pins


@pytest.fixture(scope="module")
def locked(repository: Path) -> dict[str, str]:
    """All pins for Linux, of all sets."""
    return read(repository, *PACKAGE_SETS)


def test_a_package_has_the_same_version_in_every_set(repository: Path) -> None:
    versions: dict[str, set[str]] = {}
    for name in PACKAGE_SETS:
        for package, version in read(repository, name).items():
            versions.setdefault(package, set()).add(version)
    assert {package: found for package, found in versions.items() if len(found) > 1} == {}


def test_no_lock_file_can_bring_a_torch_of_its_own(locked: dict[str, str]) -> None:
    assert not [n for n in locked if n.startswith(("torch", "nvidia", "triton", "cuda")) and n != "torchmetrics"]
    assert "torch" not in locked


def test_the_cuda_libraries_are_pinned_apart_from_the_rest(repository: Path, locked: dict[str, str]) -> None:
    pins = read_pins(repository / "requirements" / "cuda.txt", "linux")
    assert {"nvidia-cublas", "triton"} <= set(pins)
    assert not set(pins) & set(locked)


@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize("platform", MACHINES)
@pytest.mark.parametrize("sets", TOGETHER, ids="+".join)
def test_the_lock_files_are_complete(repository: Path, sets: tuple[str, ...], platform: str, python: str) -> None:
    """Every requirement of every locked package, as installed here, is locked too, in a version it accepts."""
    pins = read(repository, *sets, platform=platform)
    machine = MACHINES[platform] | {"python_version": python, "python_full_version": f"{python}.0"}
    extras = {"trame-slicer": "standalone"}
    wrong = []
    for name in {*pins, "torch"} - ONLY_ON_WINDOWS:
        for text in importlib.metadata.requires(name) or []:
            need = Requirement(text)
            wanted = normalized(need.name)
            if need.marker and not need.marker.evaluate({**machine, "extra": extras.get(name, "")}):
                continue
            if wanted in LEFT_OUT.get(name, ()) or wanted == "torch" or wanted.startswith(("nvidia", "triton", "cuda")):
                continue
            if wanted not in pins or not need.specifier.contains(pins[wanted], prereleases=True):
                wrong.append(f"{name} needs {text}, locked is {pins.get(wanted)}")
    assert wrong == []


def test_nothing_is_left_out_that_is_locked_or_that_nobody_asks_for(repository: Path) -> None:
    locked = read(repository, "segment")
    for name, left_out in LEFT_OUT.items():
        asked = {normalized(Requirement(text).name) for text in importlib.metadata.requires(name) or []}
        assert left_out <= asked, name
        assert not left_out & set(locked), name


def test_this_environment_has_the_locked_versions(locked: dict[str, str], repository: Path) -> None:
    assert {name: importlib.metadata.version(name) for name in locked} == locked
    stand_in = read_own_version(repository / "requirements" / "torchvision_stand_in")
    assert importlib.metadata.version("torchvision") == stand_in


# --- the segmentation's packages without what the lock file leaves out

USE = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {MODULES_LEFT_OUT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
import totalsegmentator.bin.TotalSegmentator
from totalsegmentator.libs import download_pretrained_weights
from totalsegmentator.nnunet import nnUNet_predict_image
from totalsegmentator.python_api import totalsegmentator
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find

for name in ("nnUNetTrainer", "nnUNetTrainerNoMirroring", "nnUNetTrainer_4000epochs_NoMirroring",
             "nnUNetTrainerDiceTopK10Loss_2000epochs", "nnUNet_Primus_S_Trainer"):
    print(find(name).__name__)
try:
    find("nowhere")  # which looks at every module
except RuntimeError as error:
    print(error)
"""


def test_segmentation_imports_nothing_that_is_left_out() -> None:
    answer = subprocess.run([sys.executable, "-W", "ignore", "-c", USE], capture_output=True, text=True, timeout=240)
    assert answer.returncode == 0, answer.stderr
    *found, last = answer.stdout.splitlines()
    assert found == [
        "nnUNetTrainer",
        "nnUNetTrainerNoMirroring",
        "nnUNetTrainer_4000epochs_NoMirroring",
        "nnUNetTrainerDiceTopK10Loss_2000epochs",
        "nnUNet_Primus_S_Trainer",
    ]
    assert "Could not find requested nnunet trainer nowhere" in last


def test_the_stand_in_for_torchvision_says_what_it_is_when_it_is_used() -> None:
    from torchvision.ops.misc import FrozenBatchNorm2d

    with pytest.raises(ImportError, match=r"needs torchvision.*only a stand-in.*pip install --upgrade torchvision"):
        FrozenBatchNorm2d(3)
    # torch itself asks for this name and takes a failure for "there is no torchvision".
    with pytest.raises(ImportError):
        from torchvision.ops import roi_align  # noqa: F401


# --- reading


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


def test_an_own_package_without_a_version_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "stand_in"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "a"\n')
    with pytest.raises(ValueError, match=r"stand_in/pyproject\.toml has no 'version'"):
        read_own_version(folder)
