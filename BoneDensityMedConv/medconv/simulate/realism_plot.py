"""Real and simulated CT side by side as one picture: L1's histogram, its edge, and both power spectra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medconv import RESEARCH_USE_ONLY
from medconv.packages import how_to_install
from medconv.simulate.nifti import partial_path
from medconv.simulate.realism import DEPTH_MM, FREQUENCY_STEP, HISTOGRAM_HU, Appearance, mean_of
from medconv.types import FloatArray, MissingRequirement

REAL, SIMULATED = "#b3261e", "#1f5fa8"


def draw_realism(path: Path, real: Appearance, simulated: Sequence[Appearance]) -> None:
    """One PNG; each simulated CT thin, their mean thick. Raises MissingRequirement without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingRequirement(
            "matplotlib_missing",
            "The comparison's picture needs matplotlib.",
            how_to_install("train"),
        ) from error
    figure = Figure(figsize=(11.0, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    frequency = (np.arange(len(real.core_spectrum)) + 0.5) * FREQUENCY_STEP
    middle = (HISTOGRAM_HU[1:] + HISTOGRAM_HU[:-1]) / 2.0
    depth = (DEPTH_MM[1:] + DEPTH_MM[:-1]) / 2.0
    _lines(axes[0, 0], middle, 100.0 * real.histogram, [100.0 * s.histogram for s in simulated])
    axes[0, 0].set(title="Voxels of L1", xlabel="HU", ylabel="% of the voxels in 20 HU")
    _lines(axes[0, 1], depth, real.edge_hu, [s.edge_hu for s in simulated])
    axes[0, 1].axvline(0.0, color="#888888", linewidth=0.8)
    axes[0, 1].set(title="Edge of L1", xlabel="mm below the mask's surface", ylabel="mean HU")
    _lines(axes[1, 0], frequency, real.core_spectrum, [s.core_spectrum for s in simulated])
    axes[1, 0].set(title=f"Trabecular core ({_sds(real.core_sd_hu, [s.core_sd_hu for s in simulated])})", yscale="log")
    _lines(axes[1, 1], frequency, real.soft_spectrum, [s.soft_spectrum for s in simulated])
    axes[1, 1].set(title=f"Even soft tissue ({_sds(real.soft_sd_hu, [s.soft_sd_hu for s in simulated])})", yscale="log")
    for axis in axes[1]:
        axis.set(xlabel="cycles per mm in the slice", ylabel="power, HU²·mm²")
    axes[0, 0].legend()
    figure.supxlabel(RESEARCH_USE_ONLY, fontsize=8)
    partial = partial_path(path)
    figure.savefig(partial, dpi=120, format="png", metadata={"Software": None})
    partial.replace(path)


def _lines(axis: Any, x: FloatArray, real: FloatArray, simulated: Sequence[FloatArray]) -> None:
    for one in simulated:
        axis.plot(x, one, color=SIMULATED, alpha=0.25, linewidth=0.8)
    axis.plot(x, mean_of(simulated), color=SIMULATED, linewidth=2.0, label=f"{len(simulated)} simulated CTs")
    axis.plot(x, real, color=REAL, linewidth=2.0, label="real CT")
    axis.grid(alpha=0.25)


def _sds(real_hu: float, simulated_hu: Sequence[float]) -> str:
    return f"SD {real_hu:.0f} HU real, {float(np.nanmean(simulated_hu)):.0f} HU simulated"
