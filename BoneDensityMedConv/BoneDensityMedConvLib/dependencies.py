"""What the analysis needs that may not be there, and how to get it. Nothing is installed without being asked for."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
from dataclasses import dataclass
from typing import Any

from medconv.types import MissingRequirement

REQUESTER = "BoneDensityMedConv"
PIP_REQUIREMENTS = {"SimpleITK": "SimpleITK>=2.4,<3"}
NEEDED = ("torch", *PIP_REQUIREMENTS)


@dataclass(frozen=True)
class Missing:
    """One thing that is missing. `kind` is what `install` takes; `installable` says whether it can help here."""

    kind: str
    message: str
    remedy: str
    installable: bool


def missing() -> list[Missing]:
    """All that is missing, without importing any of it."""
    return [_describe(kind) for kind in NEEDED if importlib.util.find_spec(kind) is None]


def install(kind: str) -> None:
    """Install one of `missing()`; the panel has asked before. Raises MissingRequirement if it did not work."""
    problem = _describe(kind)
    if not problem.installable:
        raise MissingRequirement(f"{kind}_missing", problem.message, problem.remedy)
    try:
        if kind == "torch":
            _install_torch()
        else:
            packaging = importlib.import_module("slicer.packaging")
            packaging.pip_ensure(PIP_REQUIREMENTS[kind], requester=REQUESTER)
    except (RuntimeError, ImportError, subprocess.CalledProcessError) as error:
        raise MissingRequirement(
            f"{kind}_not_installed",
            f"{kind} was not installed ({error}).",
            "Check the network connection and the log (menu View, Error Log), then try again.",
        ) from error
    importlib.invalidate_caches()
    if importlib.util.find_spec(kind) is None:
        raise MissingRequirement(
            f"{kind}_not_installed", f"{kind} is still not there.", "Restart Slicer and try again."
        )


def require() -> None:
    """Raise MissingRequirement for the first thing that is missing."""
    for problem in missing():
        raise MissingRequirement(f"{problem.kind}_missing", problem.message, problem.remedy)


def _install_torch() -> None:
    # The PyTorch extension knows which build fits the computer; a plain pip install would guess. The panel has asked.
    utilities: Any = importlib.import_module("PyTorchUtils")
    if utilities.PyTorchUtilsLogic().installTorch(askConfirmation=False) is None:
        raise RuntimeError("the installation was declined or failed")


def _describe(kind: str) -> Missing:
    if kind == "torch":
        message = "PyTorch, which runs the network, is not installed."
        if not _has("slicer.packaging"):
            return Missing(kind, message, "Install it into this Python: pip install torch", False)
        if not _has("PyTorchUtils"):
            remedy = "Install the extension PyTorch in the Extensions Manager, restart Slicer, and analyse again."
            return Missing(kind, message, remedy, False)
        return Missing(kind, message, "Press Analyse and agree to the installation by the PyTorch extension.", True)
    requirement = PIP_REQUIREMENTS[kind]
    message = f"The Python package {kind} is not installed."
    if not _has("slicer.packaging"):
        return Missing(kind, message, f'Install it into this Python: pip install "{requirement}"', False)
    return Missing(kind, message, "Press Analyse and agree to the installation.", True)


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
