"""The project's own Python environment in `.venv`: made, filled from the lock files, repaired, and else left alone.

What is finished is written to a stamp, one step at a time, after the step. A step without its stamp is done again, and
pip itself skips what is already there; so an interrupted set-up goes on where it stopped, and a finished one costs a
look at the folder's names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts import torch_build
from scripts.console import SetupError, say
from scripts.locks import digest, normalized, read_own_version, read_pins
from scripts.pip_step import PipFailure, pip

SETS = {
    "core": "the core",
    "browser": "the browser panel",
    "segment": "the automatic segmentation",
    "fast": "faster runtimes for the network",
    "batch": "tables, DICOM results and clusters",
    "dev": "the test tools",
}
# Unpacked, measured on Linux, without torch.
DISK_MB = {"core": 600, "browser": 900, "segment": 370, "fast": 300, "batch": 250, "dev": 540}
# Packages of a set that lie in requirements/ themselves: name → folder.
OWN_PACKAGES = {"segment": {"torchvision": "torchvision_stand_in"}}
PROJECT = "bonedensity-medconv"
SUPPORTED = ((3, 11), (3, 12))


@dataclass
class Environment:
    """A virtual environment under `root`; `venv` and the rest follow from it."""

    root: Path
    stamp: dict[str, Any] = field(default_factory=dict)

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def log(self) -> Path:
        return self.venv / "setup.log"

    @property
    def stamp_file(self) -> Path:
        return self.venv / "setup-stamp.json"

    def lock(self, name: str) -> Path:
        return self.root / "requirements" / f"{name}.txt"

    def ensure(self, sets: tuple[str, ...]) -> None:
        """Make sure that torch, the project and the named package sets are installed. Raises SetupError."""
        self.ensure_venv()
        cuda = torch_build.wants_cuda()
        self.load_stamp()
        installed = self.installed()
        missing = [name for name in sets if not self.has_set(name, installed)]
        torch_missing = not self.has_torch(installed, cuda)
        project_missing = not self.has_project(installed)
        if not (missing or torch_missing or project_missing):
            return
        say("Setting up .venv (only what is not there yet) ...")
        self.remove_half_installed()
        # torch follows the core, whose lock holds its plain dependencies, and comes before all that may be large.
        if "core" in missing:
            self.install_set("core")
        if torch_missing:
            self.install_torch(cuda)
        for name in missing:
            if name != "core":
                self.install_set(name)
        if project_missing:
            self.install_project()
        say("Set-up finished.")

    # --- the environment itself

    def ensure_venv(self) -> None:
        """Make `.venv`, or make it anew if its Python does not start or has no pip."""
        if self.python.exists():
            check = f"import sys; assert sys.version_info[:2] in {SUPPORTED}"
            if self.starts(check if self.stamp_file.exists() else f"{check}; import pip"):
                return
            say("The environment in .venv is broken or half-made; making it again ...")
        else:
            say("Making an environment in .venv ...")
        if importlib.util.find_spec("ensurepip") is None:
            raise SetupError(
                "this Python has no ensurepip, so it can't make virtual environments.",
                f"On Debian or Ubuntu: apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-venv",
            )
        # Started from inside a virtual environment, the new one must not hang on it.
        base = getattr(sys, "_base_executable", None) or sys.executable
        made = subprocess.run(
            [base, "-m", "venv", "--clear", str(self.venv)], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if made.returncode != 0 or not self.starts("import pip"):
            words = (made.stderr or made.stdout).strip().splitlines()
            raise SetupError(
                f"the environment could not be made in {self.venv}: {words[-1] if words else 'no reason given'}",
                "Check free disk space and that this folder is yours, then run the same command again.",
            )

    def starts(self, statement: str) -> bool:
        """True if the environment's Python runs the statement."""
        try:
            answer = subprocess.run([str(self.python), "-I", "-c", statement], capture_output=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return answer.returncode == 0

    def site_packages(self) -> Path:
        """Raises SetupError if the environment has none."""
        pattern = "Lib/site-packages" if os.name == "nt" else "lib/python3.*/site-packages"
        for folder in self.venv.glob(pattern):
            return folder
        raise SetupError("the environment in .venv has no site-packages.", f"Delete {self.venv} and run again.")

    def installed(self) -> dict[str, str]:
        """Normalized name → version, read from the names of the folders pip leaves (importing nothing)."""
        found = {}
        for folder in self.site_packages().glob("*.dist-info"):
            name, _, version = folder.name.removesuffix(".dist-info").rpartition("-")
            found[normalized(name)] = version
        return found

    def remove_half_installed(self) -> None:
        """Forget packages whose installation was cut off, so that pip does them again.

        pip writes INSTALLER after all of a package's files; without it the files may not all be there.
        """
        for folder in self.site_packages().glob("*.dist-info"):
            if not (folder / "INSTALLER").exists():
                shutil.rmtree(folder, ignore_errors=True)

    # --- what is there

    def load_stamp(self) -> None:
        try:
            self.stamp = json.loads(self.stamp_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.stamp = {}

    def record(self, step: str, value: str | None) -> None:
        """Write (or, with None, take back) one step of the stamp, all or nothing."""
        self.stamp.pop(step, None)
        if value is not None:
            self.stamp[step] = value
        draft = self.stamp_file.with_suffix(".tmp")
        draft.write_text(json.dumps(self.stamp, indent=1), encoding="utf-8")
        draft.replace(self.stamp_file)

    def has_set(self, name: str, installed: dict[str, str]) -> bool:
        """True if the set was finished with this very lock file and every pin is still in place."""
        if self.stamp.get(name) != digest(self.lock(name)):
            return False
        return all(installed.get(package) == version for package, version in self.pins(name).items())

    def pins(self, name: str) -> dict[str, str]:
        try:
            pins = read_pins(self.lock(name))
            own = {package: read_own_version(folder) for package, folder in self.own_packages(name).items()}
            return pins | own
        except (OSError, ValueError) as error:
            raise SetupError(f"a lock file can't be read: {error}", "Restore requirements/ from git.") from error

    def own_packages(self, name: str) -> dict[str, Path]:
        return {package: self.root / "requirements" / folder for package, folder in OWN_PACKAGES.get(name, {}).items()}

    def has_torch(self, installed: dict[str, str], cuda: bool) -> bool:
        there = installed.get("torch")
        return torch_build.acceptable(there, cuda) and self.stamp.get("torch") == there

    def project_digest(self) -> str:
        version = self.root / "BoneDensityMedConv" / "medconv" / "__init__.py"
        return f"{digest(self.root / 'pyproject.toml', version)} {self.root}"

    def has_project(self, installed: dict[str, str]) -> bool:
        return PROJECT in installed and self.stamp.get("project") == self.project_digest()

    # --- steps

    def pip(self, arguments: list[str], doing: str) -> None:
        pip(self.python, arguments, self.log, doing)

    def install_set(self, name: str) -> None:
        pins = self.pins(name)
        say(f"Installing {SETS[name]} ({len(pins)} packages, about {DISK_MB[name]} MB on disk) ...")
        self.record(name, None)
        arguments = ["install", "--no-deps"]
        if name != "core":
            # A few packages come as source; the core has brought what builds them, in a version that is pinned.
            arguments.append("--no-build-isolation")
        arguments += ["-r", str(self.lock(name)), *map(str, self.own_packages(name).values())]
        try:
            self.pip(arguments, f"Installing {SETS[name]}")
        except PipFailure as failure:
            if failure.missing and name == "browser":
                failure.remedy = f"Without the panel: python3 run.py demo --headless DIR works here. {failure.remedy}"
            raise
        self.record(name, digest(self.lock(name)))

    def install_torch(self, cuda: bool) -> None:
        self.record("torch", None)
        if not torch_build.acceptable(self.installed().get("torch"), cuda):
            free_gb = shutil.disk_usage(self.venv).free / 1e9
            torch_build.install(self.pip, self.root / "requirements", cuda, free_gb=free_gb)
        there = self.installed().get("torch")
        if there is None:
            raise SetupError("torch is not there although pip reported success.", f"Details: {self.log}")
        self.record("torch", there)

    def install_project(self) -> None:
        say("Installing the project itself (from this folder) ...")
        self.record("project", None)
        arguments = ["install", "--no-deps", "--no-build-isolation", "--editable", str(self.root)]
        self.pip(arguments, "Installing the project")
        self.record("project", self.project_digest())
