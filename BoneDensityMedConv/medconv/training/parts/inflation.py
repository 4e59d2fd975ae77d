"""Pretraining on photographs for a network on volumes: 2D weights from a local file, inflated to 3D.

Carreira and Zisserman 2017, "Quo vadis, action recognition?" (I3D): a k x k kernel is repeated k times along depth and
divided by k, so that a volume that is constant along z gives what the 2D network gives for one of its slices. The three
colours of a stem are summed for a grey input. Names are those of timm; nothing is fetched, no code in a file is run.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medconv.packages import how_to_install
from medconv.training.parts.vit import ViT3D
from medconv.types import InputRefused, MissingRequirement

State = dict[str, Tensor]
# The last layer by timm's names: its 1000 classes are of no use here, so it stays fresh.
CLASSIFIERS = ("fc.", "classifier.", "head.")
WRAPPERS = ("state_dict", "model", "model_state_dict")
# timm's ViT → ours, which is made of torch's own layers.
VIT_NAMES = {
    "patch_embed.proj.": "patch_embed.",
    "blocks.": "encoder.layers.",
    ".attn.qkv.": ".self_attn.in_proj_",
    ".attn.proj.": ".self_attn.out_proj.",
    ".mlp.fc1.": ".linear1.",
    ".mlp.fc2.": ".linear2.",
}


@dataclass(frozen=True)
class InflationReport:
    """What became of a file's weights. inflated: kernels that got a depth; copied: taken as they were; fresh: not in
    the file, left as they started; unused: in the file only."""

    file: str
    inflated: tuple[str, ...]
    copied: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.file}: {len(self.inflated)} kernels inflated to 3D, {len(self.copied)} weights taken as they are; "
            f"left fresh: {', '.join(self.fresh) or 'none'}; not used: {', '.join(self.unused) or 'none'}"
        )


def load_pretrained(network: nn.Module, path: Path) -> InflationReport:
    """Put a local file's weights into the network, all but its last layer, and say what fitted.

    Raises InputRefused if the file can't be read or belongs to another network (one weight missing, left over or of
    another shape is enough); the network is then unchanged. Raises MissingRequirement for .safetensors without its
    package.
    """
    found = read_weights(path)
    if isinstance(network, ViT3D):
        found = _vit_weights(found, network)
    wanted = network.state_dict()
    body = {name: value for name, value in wanted.items() if not name.startswith(CLASSIFIERS)}
    counters = {name for name in body if name.endswith("num_batches_tracked")}
    missing = sorted(set(body) - set(found) - counters)
    unused = tuple(sorted(set(found) - set(body)))
    surplus = [name for name in unused if not name.startswith(CLASSIFIERS)]
    fitted = {n: _fitted(found[n], value) for n, value in body.items() if n in found}
    misfits = [
        f"{n} {tuple(found[n].shape)} for {tuple(body[n].shape)}" for n, tensor in fitted.items() if tensor is None
    ]
    if missing or surplus or misfits:
        raise InputRefused("pretraining_does_not_fit", *_why(path, missing, surplus, misfits))
    taken = {name: tensor for name, tensor in fitted.items() if tensor is not None}
    network.load_state_dict(wanted | taken, strict=True)
    inflated = tuple(name for name in taken if found[name].ndim == 4)
    copied = tuple(name for name in taken if found[name].ndim != 4)
    return InflationReport(path.name, inflated, copied, tuple(sorted(set(wanted) - set(taken))), unused)


def inflate(kernel: Tensor, shape: torch.Size) -> Tensor | None:
    """A 2D kernel (out, in, k, k) as (out, in, depth, k, k): repeated and divided by the depth. None if it can't be.

    >>> inflate(torch.ones(1, 1, 3, 3), torch.Size([1, 1, 3, 3, 3])).sum()
    tensor(9.)
    """
    if kernel.ndim != 4 or len(shape) != 5 or kernel.shape[2:] != shape[3:]:
        return None
    return kernel[:, :, None].expand(-1, -1, shape[2], -1, -1) / shape[2]


def stem_channels(kernel: Tensor, channels: int) -> Tensor | None:
    """A stem for three colours (out, 3, ...) as one for `channels`; None if the kernel has not three inputs.

    Summed for one channel, which gives what the same grey gives in three colours; for more, repeated in turn and scaled
    by 3/channels.
    """
    if kernel.shape[1] == channels:
        return kernel
    if kernel.shape[1] != 3:
        return None
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    return kernel[:, [i % 3 for i in range(channels)]] * (3.0 / channels)


def read_weights(path: Path) -> State:
    """Tensors by name from .safetensors, .npz, .pth, .pt or .bin. Raises InputRefused, MissingRequirement."""
    readers = {".safetensors": _safetensors, ".npz": _npz, ".pth": _pth, ".pt": _pth, ".bin": _pth}
    if path.suffix.lower() not in readers:
        raise InputRefused(
            "pretraining_unknown_file",
            f"{path.name} is no weight file that is known here.",
            f"Expected one of: {', '.join(readers)}.",
        )
    try:
        content = readers[path.suffix.lower()](path)
    except MissingRequirement:
        raise
    except (OSError, EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise InputRefused(
            "pretraining_unreadable",
            f"{path} can't be read ({str(error).splitlines()[0] if str(error) else type(error).__name__}).",
            "Get the file again; a .pth file must hold tensors only (no code in a file is ever run).",
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            content = dict(content[wrapper])
    tensors = {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputRefused("pretraining_unreadable", f"{path} holds no weights.", "Expected tensors by timm's names.")
    return tensors


def _fitted(found: Tensor, wanted: Tensor) -> Tensor | None:
    """`found` in the shape of `wanted`, or None."""
    value: Tensor | None = found
    if found.ndim == 4 and wanted.ndim == 5:
        value = inflate(found.float(), wanted.shape)
    if value is not None and wanted.ndim == value.ndim == 5 and value.shape[1] != wanted.shape[1]:
        value = stem_channels(value.float(), wanted.shape[1])
    return None if value is None or value.shape != wanted.shape else value.to(wanted.dtype)


def _vit_weights(found: State, network: ViT3D) -> State:
    """timm's 2D ViT under our names, its positions stretched to our grid and repeated along z, its patches to ours."""
    renamed: State = {}
    for name, value in found.items():
        for theirs, ours in VIT_NAMES.items():
            name = name.replace(theirs, ours)
        renamed[f"encoder.{name}" if name.startswith("norm.") else name] = value
    positions, patches = renamed.get("pos_embed"), renamed.get("patch_embed.weight")
    if positions is not None and positions.ndim == 3 and positions.shape[1] != network.pos_embed.shape[1]:
        renamed["pos_embed"] = _positions(positions.float(), network.grid_zyx)
    if patches is not None and patches.ndim == 4 and patches.shape[2] != network.patch:
        size = (network.patch, network.patch)
        area = patches.shape[2] * patches.shape[3] / network.patch**2  # the same grey gives the same token
        renamed["patch_embed.weight"] = area * F.interpolate(patches.float(), size, mode="area")
    return renamed


def _positions(positions: Tensor, grid_zyx: tuple[int, int, int]) -> Tensor:
    """(1, 1 + g², dim) of a square image → (1, 1 + z·y·x, dim)."""
    z, y, x = grid_zyx
    side = round((positions.shape[1] - 1) ** 0.5)
    if side * side != positions.shape[1] - 1:
        return positions
    plane = positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))  # (1, dim, g, g)
    if (side, side) != (y, x):
        plane = F.interpolate(plane, (y, x), mode="bicubic", align_corners=False)
    volume = plane[:, :, None].expand(-1, -1, z, -1, -1).flatten(2).transpose(1, 2)  # (1, z·y·x, dim)
    return torch.cat([positions[:, :1], volume], dim=1)


def _why(path: Path, missing: list[str], surplus: list[str], misfits: list[str]) -> tuple[str, str]:
    parts = [("it lacks", missing), ("it has besides", surplus), ("of another shape are", misfits)]
    told = "; ".join(f"{what} {', '.join(names[:3])}{' …' * (len(names) > 3)}" for what, names in parts if names)
    return (
        f"{path.name} does not belong to this network: {told}.",
        "Take timm's 2D weights of the same name; our ResNets need width 64 for them.",
    )


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingRequirement(
            "safetensors_missing",
            f"{path.name} needs the package safetensors to be read.",
            how_to_install(packages="safetensors"),
        ) from error
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "model.json"}
    return {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind in "fiu"}


def _pth(path: Path) -> dict[str, Any]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError(f"holds a {type(content).__name__}, not weights by name")
    return dict(content)
