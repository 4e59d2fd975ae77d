"""What is missing and how it is installed, in Slicer and outside it. Slicer's functions are checked by signature."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import subprocess
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from BoneDensityMedConvLib import dependencies
from medconv.types import MissingRequirement, UsageError
from scripts.locks import normalized, read_pins

NNUNET_MODULES = set(dependencies.REQUIREMENTS["nnunetv2"])
AUTOMATIC = ("totalsegmentator", "nnunetv2")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The set of modules that can be found; tests change it."""
    present = {"torch", "torchvision", "SimpleITK"}
    monkeypatch.setattr(dependencies.importlib.util, "find_spec", lambda name, *_: name if name in present else None)
    return present


def kinds(segmenter: str) -> list[str]:
    return [problem.kind for problem in dependencies.missing(segmenter)]


# --- what is missing


def test_nothing_is_missing_where_all_is_there(installed: set[str]) -> None:
    assert dependencies.missing() == []
    dependencies.require()
    installed |= NNUNET_MODULES | {"totalsegmentator", "dicom2nifti"}
    for segmenter in ("existing", "totalsegmentator", "demonstration", "nnunet", "nnunet:/models/Dataset900"):
        assert kinds(segmenter) == []
        dependencies.require(segmenter)


def test_each_source_of_the_mask_asks_for_its_own_packages(installed: set[str]) -> None:
    assert kinds("existing") == []
    assert kinds("demonstration") == kinds("nnunet") == kinds("nnunet:C:\\models\\Dataset900") == ["nnunetv2"]
    assert kinds("totalsegmentator") == ["totalsegmentator"]
    installed.clear()
    assert kinds("totalsegmentator") == ["torch", "SimpleITK", "totalsegmentator"]


@pytest.mark.parametrize("cut_off", ["blosc2", "timm", "acvl_utils"])
def test_a_package_without_what_it_needs_counts_as_missing(installed: set[str], cut_off: str) -> None:
    installed |= NNUNET_MODULES | {"totalsegmentator", "dicom2nifti"}
    installed.remove(cut_off)
    assert kinds("nnunet") == ["nnunetv2"]
    assert kinds("totalsegmentator") == ["totalsegmentator"]


def test_an_unknown_source_of_the_mask_is_refused(installed: set[str]) -> None:
    with pytest.raises(UsageError, match="no segmenter 'totalsegmentater'"):
        dependencies.missing("totalsegmentater")


def test_outside_slicer_the_person_is_told_what_to_type(installed: set[str]) -> None:
    installed.clear()
    torch, simpleitk, segmentation = dependencies.missing("totalsegmentator")
    assert not any(problem.installable for problem in (torch, simpleitk, segmentation))
    assert "pip install torch" in torch.remedy
    assert 'pip install "SimpleITK>=2.4,<3"' in simpleitk.remedy
    assert 'pip install "bonedensity-medconv[segment]"' in segmentation.remedy
    with pytest.raises(MissingRequirement, match="PyTorch"):
        dependencies.install("torch")
    installed |= {"torch", "torchvision", "SimpleITK"}
    with pytest.raises(MissingRequirement, match=r"TotalSegmentator.*MB to fetch") as refusal:
        dependencies.require("totalsegmentator")
    assert (refusal.value.code, refusal.value.exit_code) == ("totalsegmentator_missing", 4)


def test_in_slicer_without_the_pytorch_extension_its_name_is_told(installed: set[str]) -> None:
    installed.clear()
    installed.add("slicer.packaging")
    torch = dependencies.missing()[0]
    assert not torch.installable
    assert "extension PyTorch" in torch.remedy


# --- installing in Slicer


def signature_in_slicer(repository: Path, name: str) -> inspect.Signature:
    """The signature of a function of slicer.packaging, as a running Slicer printed it."""
    file = repository / "Testing" / "Python" / "panels" / "data" / "slicer_api.json"
    text = json.loads(file.read_text(encoding="utf-8"))["python"]["slicer.packaging"][name]
    namespace: dict[str, Any] = {}
    exec(f"def function{text}: pass", namespace)
    return inspect.signature(namespace["function"])


class Slicer:
    """PyTorchUtils, slicer.packaging and the TotalSegmentator extension, as far as they are called."""

    def __init__(self, installed: set[str], pip_ensure: inspect.Signature) -> None:
        self.installed, self.signature = installed, pip_ensure
        self.torch_calls: list[bool] = []
        self.pip_calls: list[dict[str, Any]] = []
        self.extension_calls = 0
        self.works = True
        self.by_extension: Iterable[str] = ()
        self.extension_error: Exception | None = None

    def PyTorchUtilsLogic(self) -> Slicer:
        return self

    def installTorch(self, askConfirmation: bool) -> object:
        self.torch_calls.append(askConfirmation)
        if self.works:
            self.installed |= {"torch", "torchvision"}
        return object() if self.works else None

    def TotalSegmentatorLogic(self) -> Slicer:
        return self

    def setupPythonRequirements(self, upgrade: bool = False) -> None:
        assert not upgrade
        self.extension_calls += 1
        if self.extension_error:
            raise self.extension_error
        self.installed.update(self.by_extension)

    def pip_ensure(self, *arguments: Any, **options: Any) -> None:
        call = self.signature.bind(*arguments, **options).arguments
        self.pip_calls.append(call)
        if not self.works:
            raise subprocess.CalledProcessError(1, "pip install")
        wanted = {Requirement(text).name for text in call["requirements"]}
        modules = {m: Requirement(r).name for kind in dependencies.REQUIREMENTS.values() for m, r in kind.items()}
        self.installed.update(module for module, name in modules.items() if name in wanted)


@pytest.fixture
def in_slicer(installed: set[str], monkeypatch: pytest.MonkeyPatch, repository: Path) -> Callable[..., Slicer]:
    """Slicer with its own extensions; nothing of what the analysis needs is there, except what is named."""

    def make(*present: str, extension: bool = False) -> Slicer:
        slicer = Slicer(installed, signature_in_slicer(repository, "pip_ensure"))
        installed.clear()
        installed.update({"slicer.packaging", "PyTorchUtils", *present})
        if extension:
            installed.add("TotalSegmentator")
        for name in ("PyTorchUtils", "slicer.packaging", "TotalSegmentator"):
            module = types.ModuleType(name)
            for function in ("PyTorchUtilsLogic", "pip_ensure", "TotalSegmentatorLogic"):
                setattr(module, function, getattr(slicer, function))
            monkeypatch.setitem(sys.modules, name, module)
        return slicer

    return make


def test_torch_comes_through_the_pytorch_extension_after_the_panel_asked(in_slicer: Callable[..., Slicer]) -> None:
    slicer = in_slicer()
    assert [problem.installable for problem in dependencies.missing()] == [True, True]
    dependencies.install("torch")
    assert slicer.torch_calls == [False]
    assert kinds("existing") == ["SimpleITK"]
    assert kinds("nnunet") == ["SimpleITK", "nnunetv2"], "torchvision came along"


def test_torchvision_comes_from_the_pytorch_extension_too(in_slicer: Callable[..., Slicer]) -> None:
    slicer = in_slicer("torch", "SimpleITK", *NNUNET_MODULES)
    assert kinds("existing") == []
    (problem,) = dependencies.missing("demonstration")
    assert (problem.kind, problem.installable) == ("torchvision", True)
    dependencies.install("torchvision")
    assert (slicer.torch_calls, slicer.pip_calls) == ([False], [])
    slicer.installed -= {"torchvision", "PyTorchUtils"}
    assert "extension PyTorch" in dependencies.missing("demonstration")[0].remedy


def test_simpleitk_comes_through_slicers_packaging(in_slicer: Callable[..., Slicer]) -> None:
    slicer = in_slicer()
    dependencies.install("SimpleITK")
    (call,) = slicer.pip_calls
    assert call["requirements"] == ["SimpleITK>=2.4,<3"]
    assert call["requester"] == "BoneDensityMedConv"
    assert call["prompt_install"] is False, "the panel has asked"
    assert "SimpleITK" not in call["skip_packages"]


@pytest.mark.parametrize("kind", AUTOMATIC)
def test_automatic_segmentation_leaves_slicers_own_packages_and_torch_alone(
    in_slicer: Callable[..., Slicer], kind: str
) -> None:
    slicer = in_slicer("torch", "torchvision", "SimpleITK")
    assert dependencies.missing(kind.removesuffix("v2"))[0].installable
    dependencies.install(kind)
    (call,) = slicer.pip_calls
    assert {"torch", "torchvision", "SimpleITK", "numpy", "requests", "pydicom"} <= set(call["skip_packages"])
    assert "nnunetv2>=2.8,<3" in call["requirements"]
    assert ("TotalSegmentator>=2.18,<3" in call["requirements"]) is (kind == "totalsegmentator")
    assert call["prompt_install"] is False
    assert kinds(kind.removesuffix("v2")) == []


def test_a_package_of_another_extension_is_not_asked_for_again(in_slicer: Callable[..., Slicer]) -> None:
    slicer = in_slicer("torch", "torchvision", "SimpleITK", *(NNUNET_MODULES - {"blosc2", "cc3d"}))
    dependencies.install("nnunetv2")
    assert slicer.pip_calls[0]["requirements"] == ["blosc2>=3.3.2,<4.2", "connected-components-3d"]


def test_the_totalsegmentator_extension_installs_its_own_version(in_slicer: Callable[..., Slicer]) -> None:
    slicer = in_slicer("torch", "torchvision", "SimpleITK", extension=True)
    slicer.by_extension = {*NNUNET_MODULES, "totalsegmentator", "dicom2nifti"} - {"timm"}
    dependencies.install("totalsegmentator")
    assert slicer.extension_calls == 1
    assert [call["requirements"] for call in slicer.pip_calls] == [["timm<1.0.23"]], "only what it left out"


def test_what_the_totalsegmentator_extension_has_installed_is_used_as_it_is(in_slicer: Callable[..., Slicer]) -> None:
    slicer = in_slicer(
        "torch", "torchvision", "SimpleITK", *NNUNET_MODULES, "totalsegmentator", "dicom2nifti", extension=True
    )
    assert kinds("totalsegmentator") == []
    slicer.installed.remove("einops")
    dependencies.install("totalsegmentator")
    assert slicer.extension_calls == 0
    assert [call["requirements"] for call in slicer.pip_calls] == [["einops"]]


def test_the_totalsegmentator_extension_s_own_words_are_passed_on(in_slicer: Callable[..., Slicer]) -> None:
    class InstallError(Exception):
        pass

    slicer = in_slicer("torch", "torchvision", "SimpleITK", extension=True)
    slicer.extension_error = InstallError("This module requires SlicerNNUNet extension.")
    with pytest.raises(MissingRequirement, match="requires SlicerNNUNet extension") as refusal:
        dependencies.install("totalsegmentator")
    assert refusal.value.remedy
    assert slicer.pip_calls == []


def test_nnunet_alone_does_not_involve_the_totalsegmentator_extension(in_slicer: Callable[..., Slicer]) -> None:
    slicer = in_slicer("torch", "torchvision", "SimpleITK", extension=True)
    dependencies.install("nnunetv2")
    assert slicer.extension_calls == 0


@pytest.mark.parametrize("kind", ["torch", "torchvision", "SimpleITK", *AUTOMATIC])
def test_a_declined_or_failed_installation_is_a_message_with_the_next_step(
    in_slicer: Callable[..., Slicer], kind: str
) -> None:
    in_slicer().works = False
    with pytest.raises(MissingRequirement, match="was not installed") as refusal:
        dependencies.install(kind)
    assert refusal.value.remedy


def test_an_installation_that_changed_nothing_is_not_believed(
    in_slicer: Callable[..., Slicer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As pip_ensure behaves while Slicer runs its own tests.
    in_slicer("torch", "torchvision", "SimpleITK", *(NNUNET_MODULES - {"tqdm", "einops"}))
    monkeypatch.setattr(sys.modules["slicer.packaging"], "pip_ensure", lambda *_args, **_kwargs: None)
    with pytest.raises(MissingRequirement, match="Still not there: einops, tqdm"):
        dependencies.install("nnunetv2")


# --- what that brings, walked through the real packages' own requirements


def brought(requirement: Requirement, skipped: set[str], seen: dict[str, Requirement]) -> None:
    """Follow a requirement as slicer.packaging does: everything it needs, except what is skipped."""
    name = normalized(requirement.name)
    if name in skipped or name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
        return
    seen[name] = requirement
    for text in importlib.metadata.requires(name) or []:
        brought(Requirement(text), skipped, seen)


def locked(repository: Path, *names: str) -> dict[str, str]:
    pins = {}
    for name in names or ("core", "segment"):
        pins.update(read_pins(repository / "requirements" / f"{name}.txt", "linux"))
    return pins


@pytest.mark.parametrize("kind", AUTOMATIC)
def test_slicer_fetches_nothing_that_the_lock_file_does_without(repository: Path, kind: str) -> None:
    skipped = {normalized(name) for name in (*dependencies.LEFT_ALONE, *dependencies.NOT_NEEDED)}
    seen: dict[str, Requirement] = {}
    for text in dependencies.REQUIREMENTS[kind].values():
        brought(Requirement(text), skipped, seen)
    assert set(seen) <= set(locked(repository))
    assert not [name for name in seen if name.startswith(("torch", "nvidia", "numpy", "simpleitk"))]
    assert not set(locked(repository, "segment")) & {normalized(name) for name in dependencies.NOT_NEEDED}


def test_the_tested_versions_are_within_what_slicer_is_asked_for(repository: Path) -> None:
    pins = locked(repository, "core", "segment", "dev")  # captum comes with the tools of the lab
    for kind in dependencies.REQUIREMENTS.values():
        for requirement in map(Requirement, kind.values()):
            assert requirement.specifier.contains(pins[normalized(requirement.name)]), requirement
