"""Weights: which there are, whether a file is the one that was meant, and loading it without running any code.

A weight file is a `.npz` archive of plain arrays (numpy, `allow_pickle=False`) with one more member, `model.json`,
that holds its manifest entry, so that a single file can be carried to another machine and imported there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medconv.config import ModelCard
from medconv.types import MissingRequirement, UsageError

if TYPE_CHECKING:
    from torch import nn

CARD_MEMBER = "model.json"
MANIFEST = "manifest.json"


def user_folder() -> Path:
    """Where imported weights live: MEDCONV_DATA, or the platform's usual place for an application's data."""
    if chosen := os.environ.get("MEDCONV_DATA"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return base / "medconv"


def search_folders() -> list[Path]:
    """Folders with a manifest.json, in the order in which names are looked up."""
    package = Path(__file__).resolve().parent
    candidates = [package / "model_weights", package.parent / "model_weights", package.parents[1] / "model_weights"]
    if chosen := os.environ.get("MEDCONV_WEIGHTS_DIR"):
        candidates.insert(0, Path(chosen))
    candidates.append(user_folder() / "weights")
    return [folder for folder in candidates if (folder / MANIFEST).is_file()]


def list_models() -> list[tuple[ModelCard, Path]]:
    """Every model with the path of its weight file; of equal names the first found counts.

    Raises MissingRequirement if a manifest can't be read.
    """
    found: dict[str, tuple[ModelCard, Path]] = {}
    for folder in search_folders():
        for card in read_manifest(folder / MANIFEST):
            found.setdefault(card.name, (card, folder / card.file))
    return list(found.values())


def read_manifest(path: Path) -> list[ModelCard]:
    """The models of one manifest.json. Raises MissingRequirement if it's damaged."""
    try:
        entries = json.loads(path.read_text("utf-8"))["models"]
        return [ModelCard.from_json(entry) for entry in entries]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise MissingRequirement(
            "manifest_damaged",
            f"The list of weights {path} can't be read ({error}).",
            "Restore the file from the release, or remove it and import the weights again.",
        ) from error


def find_model(name_or_file: str | Path | None = None) -> tuple[ModelCard, Path]:
    """The model of that name, or of that file; None gives the first shipped one. Raises MissingRequirement."""
    models = list_models()
    if name_or_file is None:
        if models:
            return models[0]
        raise MissingRequirement(
            "weights_missing",
            "No weights are installed.",
            "Import a weight file with: medconv weights import FILE",
        )
    for card, path in models:
        if card.name == str(name_or_file):
            return card, path
    file = Path(name_or_file)
    if file.is_file():
        return read_card(file), file
    names = ", ".join(card.name for card, _ in models) or "none"
    raise MissingRequirement(
        "weights_missing",
        f"There are no weights named '{name_or_file}', and no such file.",
        f"Installed weights: {names}. Others come with: medconv weights import FILE",
    )


def default_model() -> ModelCard:
    """The card of the weights that are used when none are named. Raises MissingRequirement if there are none."""
    return find_model(None)[0]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(card: ModelCard, path: Path) -> None:
    """Raise MissingRequirement unless the file is there and has the card's SHA-256."""
    if not path.is_file():
        raise MissingRequirement(
            "weights_missing",
            f"The weight file {path} of '{card.name}' is not there.",
            "Restore it from the release or import it again with: medconv weights import FILE",
        )
    if (found := sha256_of(path)) != card.sha256:
        raise MissingRequirement(
            "weights_changed",
            f"The weight file {path} is not the one that was published (SHA-256 {found[:12]}…, expected "
            f"{card.sha256[:12]}…).",
            "Get the file again; a changed file is never loaded.",
        )


def read_card(path: Path) -> ModelCard:
    """The manifest entry inside a weight file, with the file's actual name and hash. Raises MissingRequirement."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry: dict[str, Any] = json.loads(archive.read(CARD_MEMBER))
        return replace(ModelCard.from_json(entry | {"sha256": ""}), file=path.name, sha256=sha256_of(path))
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise MissingRequirement(
            "weights_unreadable",
            f"{path} is not a MedConv weight file ({error or type(error).__name__}).",
            "Expected a .npz with a model.json inside, as 'medconv weights import' takes and training writes.",
        ) from error


def save_weights(path: Path, state: Mapping[str, NDArray[Any]], card: ModelCard) -> ModelCard:
    """Write arrays (by timm parameter name; float16 halves the size) and card; returns the card with file and hash."""
    entry = card.to_json()
    entry.pop("sha256")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        # A fixed date makes the same training give the same file, hash and all.
        archive.writestr(zipfile.ZipInfo(CARD_MEMBER), json.dumps(entry, indent=1))
        for name, array in sorted(state.items()):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED)
    return replace(card, file=path.name, sha256=sha256_of(path))


def load_arrays(card: ModelCard, path: Path) -> dict[str, NDArray[Any]]:
    """Verified arrays by parameter name. Raises MissingRequirement for a wrong, missing or damaged file."""
    verify(card, path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name != CARD_MEMBER}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise MissingRequirement(
            "weights_unreadable", f"{path} can't be read ({error}).", "Get the file again."
        ) from error


def load_network(card: ModelCard, path: Path) -> nn.Module:
    """The network in evaluation mode with the verified weights, float32, on the CPU. Needs torch."""
    import torch

    from medconv.network import build_network

    network = build_network(card.architecture)
    arrays = load_arrays(card, path)
    state = {
        name: torch.from_numpy(np.array(a, np.int64 if a.dtype.kind == "i" else np.float32))
        for name, a in arrays.items()
    }
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise MissingRequirement(
            "weights_do_not_fit",
            f"The weights '{card.name}' do not fit their architecture {card.architecture}.",
            "Get the file again, or export it anew from its training run.",
        ) from error
    return network.eval()


def import_file(path: Path) -> ModelCard:
    """Check a weight file and copy it to the user's folder with its manifest entry. Raises MissingRequirement."""
    card = read_card(path)
    load_arrays(card, path)
    if Path(card.file).name != card.file:
        raise UsageError("weights_name", f"'{card.file}' is not a plain file name.", "Rename the file.")
    folder = user_folder() / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    known = read_manifest(manifest) if manifest.is_file() else []
    shutil.copyfile(path, folder / card.file)
    entries = [other.to_json() for other in known if other.name != card.name] + [card.to_json()]
    partial = manifest.with_suffix(".partial")
    partial.write_text(json.dumps({"models": entries}, indent=1), "utf-8")
    partial.replace(manifest)
    return card
