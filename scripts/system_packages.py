"""What the tests and the panel need from the operating system: a browser, and off-screen drawing for VTK and Qt."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.console import SetupError, say

# library → the Debian package that brings it
DRAWING = {
    "libEGL.so.1": "libegl1",
    "libEGL_mesa.so.0": "libegl-mesa0",
    "libGL.so.1": "libgl1",
    "libX11.so.6": "libx11-6",
}
QT = {
    "libxkbcommon.so.0": "libxkbcommon0",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libglib-2.0.so.0": "libglib2.0-0",
}
BROWSERS = ("chromium", "chromium-browser")
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts")


def shared_libraries() -> set[str]:
    """Names that the dynamic linker knows, such as `libEGL.so.1`; empty if it can't be asked."""
    program = shutil.which("ldconfig") or "/sbin/ldconfig"
    try:
        listing = subprocess.run([program, "-p"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return set()
    return {line.split()[0] for line in listing.splitlines() if " => " in line}


def missing_packages(libraries: dict[str, str], browser: bool) -> list[str]:
    """Debian packages that are needed and not there. On systems other than Linux nothing is missing."""
    if sys.platform != "linux":
        return []
    known = shared_libraries()
    missing = [package for library, package in libraries.items() if known and library not in known]
    if browser and not any(shutil.which(name) for name in BROWSERS):
        missing.append("chromium")
    if browser and not any(Path(folder).is_dir() and any(Path(folder).rglob("*.ttf")) for folder in FONT_FOLDERS):
        missing.append("fonts-dejavu-core")  # without a font the pages and widgets have no letters
    return missing


def ensure_for_tests() -> None:
    """Install what the tests need where that is possible. Raises SetupError with the exact command where it is not."""
    missing = missing_packages({**DRAWING, **QT}, browser=True)
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if not shutil.which("apt-get"):
        raise SetupError(
            f"the tests need what Debian calls {', '.join(missing)}, and this system has no apt-get.",
            "Install the packages of the same content and run the same command again.",
        )
    if os.geteuid() != 0:
        raise SetupError(
            f"the tests need system packages that are not installed: {', '.join(missing)}.",
            f"Run:  sudo apt-get update && sudo {' '.join(command)}\n  and then the same command again.",
        )
    say(f"Installing system packages for the tests: {', '.join(missing)} ...")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update", "-qq"], [*command, "-qq", "-o", "DPkg::Lock::Timeout=300"]):
        done = subprocess.run(step, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip().splitlines()
            raise SetupError(
                f"'{' '.join(step)}' failed: {words[-1] if words else 'no reason given'}",
                "Check the network and apt's sources, then run the same command again.",
            )


def warn_before_demo() -> None:
    """The panel draws off-screen; say beforehand if a library for it is missing."""
    missing = missing_packages(DRAWING, browser=False)
    if missing:
        say(f"Note: if the pictures stay black, install: {', '.join(missing)} (apt-get install {' '.join(missing)})")
