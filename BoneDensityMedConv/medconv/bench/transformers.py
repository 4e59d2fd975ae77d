"""The section `transformers`: MedConv's network beside the paper's ViT and JointViT, at equal input.

The sizes and patches are those of `training.parts.vit`: seven patches along the longest axis whatever the input, so
that a ViT's cost hardly depends on it, where a convolutional network's grows with the voxels. One more ViT keeps
patches of eight voxels and so the detail. Plain torch for all; and OpenVINO for both kinds where it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from medconv import runtimes
from medconv.bench import apart, flops, machine, memory, nets
from medconv.bench.figures import Action, Row, Trial, take_turns
from medconv.bench.settings import Say, Settings, part
from medconv.config import Architecture
from medconv.types import Index3

if TYPE_CHECKING:
    from torch import nn

SIZES: tuple[Index3, ...] = ((48, 64, 64), (64, 64, 64), (96, 96, 96), (224, 224, 224))
LARGE_VOXELS, LARGE_NEEDS_MB = 10**7, 6000.0
FINE_PATCH = 8
OPENVINO = "openvino"
BUDGET_S = 25.0


@dataclass(frozen=True)
class Contestant:
    """A network to compare. vit: a name of `vit.SIZES`, "" for our ResNet-50 of that width. patch: 0 is the paper's."""

    name: str
    width: int = 64
    vit: str = ""
    outputs: int = 3
    patch: int = 0

    def build(self, size: Index3) -> nn.Module:
        """With random weights that give finite logits; input (N, 1, z, y, x)."""
        import torch

        from medconv.network import build_network
        from medconv.training.parts.vit import SIZES as VIT_SIZES
        from medconv.training.parts.vit import ViT3D

        torch.manual_seed(nets.SEED)
        if self.vit:
            return ViT3D(VIT_SIZES[self.vit], 1, self.outputs, size, self.patch or None).eval()
        return nets.calibrated(build_network(self.architecture), 1)

    @property
    def architecture(self) -> Architecture:
        return Architecture(width=self.width)

    def fits(self, size: Index3) -> bool:
        """Fine patches of a large input are thousands of tokens that all look at each other: minutes a pass."""
        return not self.patch or max(size) <= 64


MEDCONV, JOINT, VIT_B = "MedConv, ResNet-50", "JointViT", "ViT-B"
CONTESTANTS = (
    Contestant(MEDCONV),
    Contestant("MedConv, ResNet-50 of width 16", width=16),
    Contestant("ViT", vit="vit"),
    Contestant(JOINT, vit="vit", outputs=4),  # three logits and a T-score from the same token
    Contestant(VIT_B, vit="vit_base"),
    Contestant("small ViT", vit="vit_small"),
    Contestant(f"ViT-B, patches of {FINE_PATCH}", vit="vit_base", patch=FINE_PATCH),
)
WITH_OPENVINO = (MEDCONV, "ViT")


def measure(settings: Settings, say: Say) -> Iterator[Row]:
    """Rows of each input size: time, memory, parameters, operations."""
    sizes = list(SIZES[: 1 if settings.quick else None])
    if (free := memory.available_mb()) is not None and free < LARGE_NEEDS_MB and not settings.quick:
        yield Row(
            nets.said(sizes.pop()), reason=f"needs {LARGE_NEEDS_MB / 1e3:.0f} GB of free memory, {free / 1e3:.1f} are"
        )
    peaks: dict[str, dict[str, float]] = {}
    for place, contestant in enumerate(CONTESTANTS):
        if settings.quick or contestant.name == VIT_B:  # it needs what the ViT needs
            continue
        say(f"memory of {contestant.name}", 0.3 * place / len(CONTESTANTS))
        peaks[contestant.name] = _peaks(contestant, sizes)
    for place, size in enumerate(sizes):
        start, length = 0.3 + 0.7 * place / len(sizes), 0.7 / len(sizes)
        yield from _one_size(size, settings, part(say, start, length), peaks)


def _one_size(size: Index3, settings: Settings, say: Say, peaks: dict[str, dict[str, float]]) -> Iterator[Row]:
    crops = nets.grey(1, size, 1)
    there = [c for c in CONTESTANTS if c.fits(size) and not (settings.quick and c.vit == "vit_base")]
    built = {contestant.name: contestant.build(size) for contestant in there}
    actions: dict[str, Action] = {name: partial(nets.eager, network, crops) for name, network in built.items()}
    large = crops.numel() >= LARGE_VOXELS
    for name in WITH_OPENVINO if OPENVINO in runtimes.available("cpu") and not (large or settings.quick) else ():
        actions[f"{name}, OpenVINO"] = _in_openvino(name, built[name], crops)
    actions[machine.GEMM], product = machine.gemm()
    trial = take_turns(actions, 3 if large else settings.rounds, settle=not large, budget_s=BUDGET_S, progress=say)
    for contestant in there:
        for name in (contestant.name, f"{contestant.name}, OpenVINO"):
            if name in actions:
                yield _row(contestant, name, built[contestant.name], size, trial, product, peaks)


def _row(
    contestant: Contestant, name: str, network: nn.Module, size: Index3, trial: Trial, product: float,
    peaks: dict[str, dict[str, float]],
) -> Row:  # fmt: skip
    work = flops.counted(network, (1, 1, *size))
    parameters = sum(p.numel() for p in network.parameters())
    peak = peaks.get(contestant.name, {}).get(nets.said(size)) if name == contestant.name else None
    voxels = size[0] * size[1] * size[2]
    grid = getattr(network, "grid_zyx", None)
    tokens = f"; {1 + grid[0] * grid[1] * grid[2]} tokens of {network.patch}³ voxels" if grid is not None else ""
    share = trial.share(name, work, machine.GEMM, product)
    return trial.row(
        name, MEDCONV, 1e-3, "ms", name=f"{nets.said(size)}, {name}", peak_mb=peak, share=share,
        of_peak=machine.SAID[machine.GEMM] if share is not None else "",
        note=f"{work / 1e9:.1f} GFLOP, {parameters / 1e6:.1f} million parameters{tokens}",
        point={"plot": "transformers", "series": name, "x": voxels, "gflop": work / 1e9, "said": nets.said(size)},
    )  # fmt: skip


def _in_openvino(name: str, network: nn.Module, crops: Any) -> Action:
    """The pass in OpenVINO, float32; raises at its first call what opening raised, so that it becomes a row."""
    ready: list[Callable[[], object]] = []

    def run() -> object:
        if not ready:
            ready.append(_opened(name, network, crops))
        return ready[0]()

    return run


def _opened(name: str, network: nn.Module, crops: Any) -> Callable[[], object]:
    if name == MEDCONV:
        array = crops.numpy()
        runtime = runtimes.open_runtime(OPENVINO, Architecture(), network, "cpu", tuple(array.shape[1:]))
        return lambda: runtime(array)
    import io
    import warnings

    import openvino
    import torch

    stream = io.BytesIO()
    torch.backends.mha.set_fastpath_enabled(False)  # OpenVINO knows no fused layer of torch
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the exporter's age, and shapes that are fixed here
            torch.onnx.export(network, (crops,), stream, dynamo=False)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    # By ONNX, not by OpenVINO's converter: that one sends usage statistics where its telemetry package is installed.
    model = openvino.Core().read_model(stream.getvalue())
    compiled = openvino.Core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    )
    array = crops.numpy()
    return lambda: compiled(array)


def _peaks(contestant: Contestant, sizes: Sequence[Index3]) -> dict[str, float]:
    """Peak memory by input size; empty where the process fails."""
    try:
        arguments = {"name": contestant.name, "sizes": [list(size) for size in sizes]}
        return dict(apart.call("medconv.bench.transformers:alone", arguments)["peaks"])
    except apart.Failed:
        return {}


def alone(name: str, sizes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """For a process of its own: peak memory of two passes of each size, in plain torch."""
    contestant = next(c for c in CONTESTANTS if c.name == name)
    peaks = {}
    for z, y, x in sizes:
        size = (z, y, x)
        if not contestant.fits(size):
            continue
        run = partial(nets.eager, contestant.build(size), nets.grey(1, size, 1))
        memory.forget_peak()
        run()
        run()
        peaks[nets.said(size)] = memory.peak_mb()
    return {"peaks": peaks}
