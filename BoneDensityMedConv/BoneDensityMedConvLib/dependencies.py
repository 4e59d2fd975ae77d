"""What the analysis needs that may not be there, and how to get it. Nothing is installed without being asked for.

torch comes from the PyTorch extension, which knows the computer's GPU; TotalSegmentator from its own extension, where
that is installed; all else through Slicer's `slicer.packaging`, and never in place of what Slicer or torch brought.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
from dataclasses import dataclass
from typing import Any

from medconv.explanation import CAPTUM
from medconv.segmenter import DEMONSTRATION, EXISTING, NNUNET, TOTALSEGMENTATOR
from medconv.types import MissingRequirement, UsageError

REQUESTER = "BoneDensityMedConv"
NEEDED = ("torch", "SimpleITK")
FROM_PYTORCH_EXTENSION = ("torch", "torchvision")  # it installs both at once, in builds that fit each other
EXPLANATION = "explanation"  # stands beside the segmenters: what moved the answer needs a package of its own
NEEDED_BY_SEGMENTER = {
    EXPLANATION: (*NEEDED, "captum"),
    EXISTING: NEEDED,
    NNUNET: (*NEEDED, "torchvision", "nnunetv2"),
    DEMONSTRATION: (*NEEDED, "torchvision", "nnunetv2"),
    TOTALSEGMENTATOR: (*NEEDED, "torchvision", "totalsegmentator"),
}
# Module → requirement. All that nnU-Net imports stands here by name: where an earlier installation was cut off, nnU-Net
# itself is there and what it needs is not. Bounds are those of nnU-Net and TotalSegmentator, except where noted.
_FOR_NNUNET = {
    "nnunetv2": "nnunetv2>=2.8,<3",
    "dynamic_network_architectures": "dynamic-network-architectures>=0.4.4,<0.5",
    "acvl_utils": "acvl-utils>=0.2.6,<0.3",
    "batchgenerators": "batchgenerators>=0.25.1",
    "batchgeneratorsv2": "batchgeneratorsv2>=0.3.2",
    "blosc2": "blosc2>=3.3.2,<4.2",  # later ones bring web clients and a terminal interface
    "cc3d": "connected-components-3d",
    "einops": "einops",
    "matplotlib": "matplotlib",
    "nibabel": "nibabel",
    "pandas": "pandas",
    "seaborn": "seaborn",
    "skimage": "scikit-image>=0.19.3",
    "sklearn": "scikit-learn",
    "timm": "timm<1.0.23",
    "tqdm": "tqdm",
}
_FOR_TOTALSEGMENTATOR = {"totalsegmentator": "TotalSegmentator>=2.18,<3", "dicom2nifti": "dicom2nifti"}
REQUIREMENTS = {
    "SimpleITK": {"SimpleITK": "SimpleITK>=2.4,<3"},
    "captum": {"captum": CAPTUM, "matplotlib": "matplotlib", "tqdm": "tqdm"},
    "nnunetv2": _FOR_NNUNET,
    "totalsegmentator": {**_FOR_NNUNET, **_FOR_TOTALSEGMENTATOR},
}
# Slicer's own build of SimpleITK and the packages that may be loaded already stay as they are; torch and torchvision
# come from the PyTorch extension: pip would take others, with gigabytes of CUDA libraries.
LEFT_ALONE = (
    "SimpleITK", "numpy", "packaging", "pillow", "pydicom", "requests", "scipy", "setuptools", "torch", "torchvision",
)  # fmt: skip
# For previews, reports, compressed DICOM, photographs and model hubs; nothing of it is imported here.
NOT_NEEDED = (
    "blosc", "dipy", "fury", "future", "graphviz", "huggingface-hub", "imagecodecs", "imgkit", "pyarrow", "python-gdcm",
    "PyYAML", "safetensors", "unittest2", "xmltodict", "xvfbwrapper", "yacs",
)  # fmt: skip
MESSAGES = {
    "torch": "PyTorch, which runs the network, is not installed.",
    "torchvision": "torchvision, which nnU-Net asks for when it starts, is not installed.",
    "SimpleITK": "The Python package SimpleITK is not installed.",
    "captum": "captum, which makes the map of what moved the answer, is not installed, or not wholly (10 MB to fetch).",
    "nnunetv2": "nnU-Net, which finds the vertebrae, is not installed, or not wholly (about 80 MB to fetch).",
    "totalsegmentator": "TotalSegmentator, which finds the vertebrae, is not installed, or not wholly"
    " (about 80 MB to fetch, without its weights).",
}


@dataclass(frozen=True)
class Missing:
    """One thing that is missing. `kind` is what `install` takes; `installable` says whether it can help here."""

    kind: str
    message: str
    remedy: str
    installable: bool


def missing(segmenter: str = EXISTING) -> list[Missing]:
    """All that is missing for an analysis with this source of the mask, without importing any of it.

    segmenter: "existing", "totalsegmentator", "demonstration", "nnunet" or "nnunet:FOLDER"; or EXPLANATION.
    Raises UsageError.
    """
    source = segmenter.partition(":")[0]
    if source not in NEEDED_BY_SEGMENTER:
        raise UsageError(
            "segmenter_unknown",
            f"There is no segmenter '{source}'.",
            f"Choose one of {', '.join(NEEDED_BY_SEGMENTER)}.",
        )
    absent = [kind for kind in NEEDED_BY_SEGMENTER[source] if _absent(kind)]
    if "torch" in absent and "torchvision" in absent:
        absent.remove("torchvision")
    return [_describe(kind) for kind in absent]


def install(kind: str) -> None:
    """Install one of `missing()`; the panel has asked before. Raises MissingRequirement if it did not work."""
    problem = _describe(kind)
    if not problem.installable:
        raise MissingRequirement(f"{kind}_missing", problem.message, problem.remedy)
    try:
        if kind in FROM_PYTORCH_EXTENSION:
            _install_torch()
        else:
            if kind == "totalsegmentator" and "totalsegmentator" in _absent(kind):
                _ask_totalsegmentator_extension()
            _install_packages(kind)
    except (RuntimeError, ImportError, subprocess.CalledProcessError) as error:
        raise MissingRequirement(
            f"{kind}_not_installed",
            f"{kind} was not installed ({error}).",
            "Check the network connection and the log (menu View, Error Log), then try again.",
        ) from error
    importlib.invalidate_caches()
    absent = _absent(kind)
    if absent:
        raise MissingRequirement(
            f"{kind}_not_installed", f"Still not there: {', '.join(absent)}.", "Restart Slicer and try again."
        )


def require(segmenter: str = EXISTING) -> None:
    """Raise MissingRequirement for the first thing that is missing for this source of the mask."""
    for problem in missing(segmenter):
        raise MissingRequirement(f"{problem.kind}_missing", problem.message, problem.remedy)


def _install_torch() -> None:
    # The PyTorch extension knows which build fits the computer; a plain pip install would guess. The panel has asked.
    utilities: Any = importlib.import_module("PyTorchUtils")
    if utilities.PyTorchUtilsLogic().installTorch(askConfirmation=False) is None:
        raise RuntimeError("the installation was declined or failed")


def _ask_totalsegmentator_extension() -> None:
    """Where Slicer has the TotalSegmentator extension, let it install the version that it works with itself."""
    if not _has("TotalSegmentator"):
        return
    extension: Any = importlib.import_module("TotalSegmentator")
    try:
        extension.TotalSegmentatorLogic().setupPythonRequirements()
    except Exception as error:  # the extension has error classes of its own
        raise RuntimeError(f"the extension TotalSegmentator: {error}") from error
    importlib.invalidate_caches()


def _install_packages(kind: str) -> None:
    """Only what is not there: another extension's version of a package is left alone."""
    requirements = [REQUIREMENTS[kind][module] for module in _absent(kind)]
    if not requirements:
        return
    skipped = [name for name in (*LEFT_ALONE, *NOT_NEEDED) if name != kind]
    packaging: Any = importlib.import_module("slicer.packaging")
    packaging.pip_ensure(requirements, skip_packages=skipped, prompt_install=False, requester=REQUESTER)


def _absent(kind: str) -> list[str]:
    """The modules of this kind that can't be found."""
    return [module for module in REQUIREMENTS.get(kind, [kind]) if not _has(module)]


def _describe(kind: str) -> Missing:
    message = MESSAGES[kind]
    if not _has("slicer.packaging"):
        return Missing(kind, message, f"Install it into this Python: {_pip_command(kind)}", False)
    by_extension = kind in FROM_PYTORCH_EXTENSION
    if by_extension and not _has("PyTorchUtils"):
        remedy = "Install the extension PyTorch in the Extensions Manager, restart Slicer, and analyse again."
        return Missing(kind, message, remedy, False)
    by = " by the PyTorch extension" if by_extension else ""
    button = "Show what moved the answer" if kind == "captum" else "Analyse"
    return Missing(kind, message, f"Press {button} and agree to the installation{by}.", True)


def _pip_command(kind: str) -> str:
    if kind in ("nnunetv2", "totalsegmentator"):
        return 'pip install "bonedensity-medconv[segment]"'
    return f'pip install "{REQUIREMENTS[kind][kind]}"' if kind in REQUIREMENTS else f"pip install {kind}"


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
