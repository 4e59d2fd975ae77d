"""Slicer must start without torch: all but the network and training is imported in a Python where torch is blocked."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

LOADS_TORCH = ("network", "training")

LOAD_WITHOUT = """
    import importlib, pkgutil, sys, types

    BLOCKED = ("torch", "totalsegmentator", "nnunetv2", "highdicom", "monai", "trame", "trame_slicer", "sklearn")

    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in BLOCKED:
                raise ModuleNotFoundError(f"blocked by the test: {name}", name=name)

    sys.meta_path.insert(0, Block())
    for name in BLOCKED:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        sys.exit(f"{name} is not blocked")

    class Anything(types.ModuleType):  # stands in for PythonQt, which only Slicer has
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    sys.modules.update(qt=Anything("qt"), ctk=Anything("ctk"))
    loaded = []
    for package, left_out in (("medconv", LEFT_OUT), ("BoneDensityMedConvLib", ())):
        root = importlib.import_module(package)
        for found in pkgutil.walk_packages(root.__path__, package + ".", onerror=lambda name: None):
            if found.name.split(".")[1] not in left_out:
                importlib.import_module(found.name)
                loaded.append(found.name)
    print(*loaded)
"""


def test_everything_but_the_network_and_training_loads_without_torch(repository: Path) -> None:
    script = f"LEFT_OUT = {LOADS_TORCH!r}\n" + textwrap.dedent(LOAD_WITHOUT)
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=repository / "BoneDensityMedConv",
    )
    assert answer.returncode == 0, answer.stderr
    loaded = set(answer.stdout.split())
    assert {"medconv.pipeline", "medconv.cli", "medconv.worker", "BoneDensityMedConvLib.presenter"} <= loaded
