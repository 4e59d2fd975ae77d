"""nnU-Net's checkpoints, loaded without running any code in them.

A checkpoint is a pickle, and nnU-Net itself loads it with `weights_only=False`: such a file can run any program when it
is opened. Here only tensors and the few numpy types that nnU-Net's own training writes into its log are accepted.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from medconv.segmenters.nnunet_folder import EXPORT_AGAIN
from medconv.types import MissingRequirement

NEEDED_IN_CHECKPOINT = ("network_weights", "trainer_name", "init_args")
# How torch's restricted unpickler names what it refuses; its other errors mean a damaged file.
UNSAFE_WORDS = ("Unsupported global", "Unsupported class", "Trying to call reduce", "Can only build", "Can only create")
TORCH_AT_LEAST = (2, 6)  # since then safe_globals takes a type under an older name


def load_checkpoint(path: Path) -> dict[str, Any]:
    """An nnU-Net checkpoint on the CPU, loaded without running code in it. Needs torch.

    Raises MissingRequirement: "weights_not_safe" if it holds anything but numbers, "weights_damaged",
    "weights_unreadable" if it is no nnU-Net v2 checkpoint.
    """
    import torch

    if not path.is_file():
        raise MissingRequirement("weights_missing", f"The weight file {path} is not there.", EXPORT_AGAIN)
    _require_restricted_loading()
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, OSError) as error:
        raise _not_loadable(path, error) from error
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in NEEDED_IN_CHECKPOINT):
        raise MissingRequirement(
            "weights_unreadable",
            f"{path.name} is no checkpoint of nnU-Net v2 (expected {', '.join(NEEDED_IN_CHECKPOINT)} in it).",
            "Choose a folder that nnU-Net v2 has written; weights of nnU-Net v1 must be trained or exported anew.",
            str(path),
        )
    return checkpoint


def _require_restricted_loading() -> None:
    """Raise MissingRequirement if this PyTorch can't be told which types to accept."""
    import torch

    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if (major, minor) < TORCH_AT_LEAST:
        raise MissingRequirement(
            "torch_too_old",
            f"PyTorch {torch.__version__} can't open nnU-Net's weights without the danger of running code in them.",
            f"Install PyTorch {'.'.join(map(str, TORCH_AT_LEAST))} or newer.",
        )


def _numpy_globals() -> list[Any]:
    """The numpy types in nnU-Net's log, under the names of numpy 1 and 2."""
    # What numpy itself calls to restore a number and an array, wherever this version keeps it.
    makers = (np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0])
    kinds = (np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_)
    return [
        *((make, f"numpy.{core}.multiarray.{make.__name__}") for make in makers for core in ("core", "_core")),  # type: ignore[union-attr]
        np.ndarray,
        np.dtype,
        *kinds,
        *{type(np.dtype(kind)) for kind in kinds},
    ]


def _not_loadable(path: Path, error: Exception) -> MissingRequirement:
    text = str(error)
    foreign = re.search(r"GLOBAL ([\w.]+)", text)
    if foreign or any(words in text for words in UNSAFE_WORDS):
        return MissingRequirement(
            "weights_not_safe",
            f"{path.name} holds more than weights ({foreign[1] if foreign else 'a foreign object'}): opening it could "
            "run a program on this computer, so it was not opened.",
            "Get the weights from their publisher again. Only checkpoints as nnU-Net v2 writes them are opened.",
            str(path),
        )
    return MissingRequirement(
        "weights_damaged",
        f"{path.name} can't be read: it is damaged, cut off, or no PyTorch file.",
        "Get the file again and compare its size with the original.",
        f"{path} ({type(error).__name__})",
    )
