"""What is missing and how it is installed, in Slicer and outside it."""

from __future__ import annotations

import sys
import types

import pytest

from BoneDensityMedConvLib import dependencies
from medconv.types import MissingRequirement


@pytest.fixture
def installed(monkeypatch):
    """The set of modules that can be found; tests change it."""
    present = {"torch", "SimpleITK"}
    monkeypatch.setattr(dependencies.importlib.util, "find_spec", lambda name, *_: name if name in present else None)
    return present


def test_nothing_is_missing_where_all_is_there(installed):
    assert dependencies.missing() == []
    dependencies.require()


def test_outside_slicer_the_person_is_told_what_to_type(installed):
    installed.clear()
    torch, simpleitk = dependencies.missing()
    assert (torch.kind, torch.installable, simpleitk.kind, simpleitk.installable) == (
        "torch",
        False,
        "SimpleITK",
        False,
    )
    assert "pip install torch" in torch.remedy
    with pytest.raises(MissingRequirement, match="PyTorch"):
        dependencies.install("torch")
    with pytest.raises(MissingRequirement) as refusal:
        dependencies.require()
    assert refusal.value.exit_code == 4


def test_in_slicer_without_the_pytorch_extension_its_name_is_told(installed):
    installed.clear()
    installed.add("slicer.packaging")
    torch = dependencies.missing()[0]
    assert not torch.installable
    assert "extension PyTorch" in torch.remedy


class Installer:
    """PyTorchUtils and slicer.packaging, as far as they are called."""

    def __init__(self, installed, works=True):
        self.installed, self.works, self.calls = installed, works, []

    def PyTorchUtilsLogic(self):
        return self

    def installTorch(self, askConfirmation):
        self.calls.append(("torch", askConfirmation))
        if self.works:
            self.installed.add("torch")
        return object() if self.works else None

    def pip_ensure(self, requirement, requester):
        self.calls.append((requirement, requester))
        if not self.works:
            raise RuntimeError("User declined package installation")
        self.installed.add("SimpleITK")


@pytest.fixture
def in_slicer(installed, monkeypatch):
    def make(works=True):
        installer = Installer(installed, works)
        installed.clear()
        installed.update({"slicer.packaging", "PyTorchUtils"})
        for name in ("PyTorchUtils", "slicer.packaging"):
            module = types.ModuleType(name)
            module.PyTorchUtilsLogic, module.pip_ensure = installer.PyTorchUtilsLogic, installer.pip_ensure
            monkeypatch.setitem(sys.modules, name, module)
        return installer

    return make


def test_torch_comes_through_the_pytorch_extension_after_the_panel_asked(in_slicer):
    installer = in_slicer()
    assert [problem.installable for problem in dependencies.missing()] == [True, True]
    dependencies.install("torch")
    assert installer.calls == [("torch", False)]
    assert [problem.kind for problem in dependencies.missing()] == ["SimpleITK"]


def test_other_packages_come_through_slicers_packaging(in_slicer):
    installer = in_slicer()
    dependencies.install("SimpleITK")
    assert installer.calls == [("SimpleITK>=2.4,<3", "BoneDensityMedConv")]


@pytest.mark.parametrize("kind", ["torch", "SimpleITK"])
def test_a_declined_installation_is_a_message_with_the_next_step(in_slicer, kind):
    in_slicer(works=False)
    with pytest.raises(MissingRequirement, match="was not installed") as refusal:
        dependencies.install(kind)
    assert refusal.value.remedy


def test_an_installation_that_changed_nothing_is_not_believed(in_slicer, monkeypatch, installed):
    installer = in_slicer()
    monkeypatch.setattr(installer, "pip_ensure", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(sys.modules["slicer.packaging"], "pip_ensure", installer.pip_ensure)
    with pytest.raises(MissingRequirement, match="still not there"):
        dependencies.install("SimpleITK")
