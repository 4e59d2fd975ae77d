"""What the core may start but not import: the browser panel lives above it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from medconv.packages import how_to_install
from medconv.types import MissingRequirement


def load_browser_panel() -> Callable[..., int]:
    """`run_browser_panel` of the panel package. Raises MissingRequirement if it or trame-slicer isn't installed."""
    try:
        module = importlib.import_module("BoneDensityMedConvLib.browser_panel")
    except ModuleNotFoundError as error:
        raise MissingRequirement(
            "browser_panel_missing",
            f"The browser panel needs a package that is not installed ({error.name}).",
            how_to_install("browser"),
        ) from error
    return cast(Callable[..., int], module.run_browser_panel)
