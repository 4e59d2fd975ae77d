"""Where the .ui file and the icons are: beside the module when installed, one folder up in a source checkout."""

from __future__ import annotations

from pathlib import Path

_MODULE_FOLDER = Path(__file__).resolve().parent.parent


def resource_path(name: str) -> Path:
    """Path of `Resources/<name>`, for example `UI/BoneDensityMedConv.ui`.

    Raises FileNotFoundError naming both places where it was looked for.
    """
    places = [folder / "Resources" / name for folder in (_MODULE_FOLDER, _MODULE_FOLDER.parent)]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"The extension is incomplete: neither {places[0]} nor {places[1]} is there. Reinstall it.")
