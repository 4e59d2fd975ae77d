"""`medconv bench`: what the pipeline costs on this computer, with ratios to baselines run in the same process.

The CT is synthetic (512 x 512 x N around a simulated L1), so that everyone measures the same thing. Memory is read
in a process of its own, which does nothing but read the files and predict.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import SimpleITK as sitk

from medconv import attenuation, crop, l1_mask, pipeline, vertebrae, volume_io
from medconv.grid import index3, to_image
from medconv.inference import LoadedModel
from medconv.report import versions
from medconv.tau_adjustment import adjust
from medconv.types import CTVolume, ImageGeometry, L1Mask

ROWS = COLUMNS = 512
MINIMUM_SLICES = 90


def run_bench(slices: int, repeats: int, out: Path | None) -> int:
    """Measure, print a table and, if `out` is given, write JSON. Returns the exit code."""
    model = LoadedModel.load(None, "cpu")
    ct, mask = synthetic_trunk(slices)
    print(
        f"CT {COLUMNS} x {ROWS} x {slices}, {ct.array_zyx.nbytes / 1e6:.0f} MB; {os.cpu_count()} cores; "
        f"weights {model.card.name}"
    )
    figures = _stages(ct, mask, model, repeats)
    figures |= _baselines(ct, mask, model, repeats, figures)
    figures |= _from_files(ct, mask, repeats)
    rows = {"versions": versions(), "cores": os.cpu_count(), "ct": [COLUMNS, ROWS, slices], "figures": figures}
    for name, figure in figures.items():
        print(f"  {name:<44}{_readable(figure)}")
    if out is not None:
        out.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
        print(f"Figures: {out}")
    return 0


def synthetic_trunk(slices: int) -> tuple[CTVolume, L1Mask]:
    """A trunk of soft tissue in air around a simulated L1, on a 512 x 512 grid of the simulated case's spacing."""
    from medconv.simulate import simulate_lumbar_ct

    simulated = simulate_lumbar_ct(seed=0)
    block, labels = simulated.ct.array_zyx, simulated.labels_zyx
    shape = np.array((slices, ROWS, COLUMNS))
    hu = np.full(shape, -1000, np.int16)
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:ROWS, :COLUMNS]
    body = ((x - COLUMNS / 2) / 230) ** 2 + ((y - ROWS / 2) / 180) ** 2 <= 1
    noise = rng.normal(40, 15, (ROWS, COLUMNS)).astype(np.int16)
    hu[:, body] = noise[body]
    size = np.minimum(block.shape, shape)
    at = (shape - size) // 2
    take = tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(block.shape, size, strict=True))
    put = tuple(slice(a, a + s) for a, s in zip(at, size, strict=True))
    hu[put] = block[take]
    geometry = ImageGeometry((COLUMNS, ROWS, slices), simulated.ct.geometry.spacing_mm_xyz, (0.0, 0.0, 0.0))
    cut = np.zeros(shape, bool)
    cut[put] = (labels == vertebrae.TOTALSEGMENTATOR["L1"])[take]
    ct = CTVolume(hu, geometry, simulated.ct.acquisition, is_simulated=True)
    return ct, l1_mask.from_array(cut, geometry, geometry)


def _stages(ct: CTVolume, mask: L1Mask, model: LoadedModel, repeats: int) -> dict[str, Any]:
    case = pipeline.prepare(ct, mask)
    network_input = crop.standardised_crop(case, model.card.preprocessing)
    logits, _ = model.run(network_input)
    card = model.card

    def slider() -> None:
        adjust(
            logits,
            card.default_adjustment,
            class_prior=card.class_prior,
            minority_classes=card.minority_classes,
            tau1_train=card.tau1_train,
        )

    figures = {
        "check and cut (s)": _timed(lambda: pipeline.prepare(ct, mask), repeats),
        "attenuation (s)": _timed(lambda: attenuation.measure(case), repeats),
        "standardised crop (s)": _timed(lambda: crop.standardised_crop(case, card.preprocessing), repeats),
        "network pass (s)": _timed(lambda: model.run(network_input), repeats),
        "loaded CT and mask to result (s)": _timed(lambda: pipeline.predict(ct, mask, model), repeats),
        "slider to probabilities (s)": _timed(slider, 200),
    }
    total, network = figures["loaded CT and mask to result (s)"], figures["network pass (s)"]
    figures["result without the network pass (s)"] = {"median": total["median"] - network["median"]}
    return figures


def _baselines(ct: CTVolume, mask: L1Mask, model: LoadedModel, repeats: int, figures: dict[str, Any]) -> dict[str, Any]:
    """The naive way for the crop: resample the whole CT and mask to the crop's spacing, then cut."""
    spacing = model.card.preprocessing.spacing_mm

    def resample_everything() -> None:
        size = np.ceil(np.asarray(ct.geometry.size_xyz) * np.asarray(ct.geometry.spacing_mm_xyz) / spacing)
        target = ImageGeometry(index3(size), (spacing, spacing, spacing), ct.geometry.origin_lps_mm)
        grid = sitk.Image(target.size_xyz, sitk.sitkUInt8)
        grid.SetSpacing(target.spacing_mm_xyz)
        for array, interpolator in (
            (ct.array_zyx, sitk.sitkLinear),
            (mask.full_array_zyx(), sitk.sitkNearestNeighbor),
        ):
            sitk.Resample(to_image(array, ct.geometry), grid, sitk.Transform(), interpolator, 0)

    naive = _timed(resample_everything, max(1, repeats // 2))
    ours = figures["check and cut (s)"]["median"] + figures["standardised crop (s)"]["median"]
    return {
        "baseline: resample everything, then cut (s)": naive,
        "check, cut and crop against that baseline": {"ratio": ours / naive["median"]},
    }


def _from_files(ct: CTVolume, mask: L1Mask, repeats: int) -> dict[str, Any]:
    """Time and peak memory of a process that reads both files and predicts."""
    with tempfile.TemporaryDirectory() as folder:
        ct_path, mask_path = Path(folder) / "ct.nii", Path(folder) / "mask.nii"
        sitk.WriteImage(to_image(ct.array_zyx, ct.geometry), str(ct_path))
        sitk.WriteImage(to_image(mask.full_array_zyx(), ct.geometry), str(mask_path))
        command = [sys.executable, "-m", "medconv.bench", str(ct_path), str(mask_path)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        runs = [
            json.loads(subprocess.check_output(command, text=True, env=environment))
            for _ in range(max(1, min(repeats, 3)))
        ]
    reading = statistics.median(run["read_s"] for run in runs)
    whole = statistics.median(run["whole_s"] for run in runs)
    return {
        "read CT and mask from files (s)": {"median": reading},
        "from files to result, model loaded (s)": {"median": whole},
        "from files to result / reading": {"ratio": whole / reading},
        "peak memory above start (MB)": {"median": statistics.median(run["peak_mb"] for run in runs)},
        "peak memory minus the CT's own size (MB)": {
            "median": statistics.median(run["peak_mb"] for run in runs) - ct.array_zyx.nbytes / 1e6
        },
    }


def _measured_process(ct_path: Path, mask_path: Path) -> dict[str, float]:
    model = LoadedModel.load(None, "cpu")
    before = _peak_mb()
    started = perf_counter()
    ct = volume_io.read_ct(ct_path)
    labels, geometry, owner = volume_io.read_labels(mask_path)
    read_at = perf_counter()
    mask, notes = l1_mask.from_labels(labels, geometry, 1, ct.geometry)
    del labels, owner
    pipeline.predict(ct, mask, model, notes=notes)
    ended = perf_counter()
    return {"read_s": read_at - started, "whole_s": ended - started, "peak_mb": _peak_mb() - before}


def _peak_mb() -> float:
    """Peak resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss on Linux also counts what the process was before exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 1e3
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _timed(action: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median and spread (half the inter-quartile range) after one warm-up."""
    action()
    times = []
    for _ in range(max(1, repeats)):
        started = perf_counter()
        action()
        times.append(perf_counter() - started)
    low, high = np.percentile(times, [25, 75])
    return {"median": statistics.median(times), "spread": float(high - low) / 2}


def _readable(figure: dict[str, float]) -> str:
    if "ratio" in figure:
        return f"{figure['ratio']:.3f} x"
    spread = f"  ± {figure['spread']:.2g}" if "spread" in figure else ""
    return f"{figure['median']:.3g}{spread}"


if __name__ == "__main__":
    print(json.dumps(_measured_process(Path(sys.argv[1]), Path(sys.argv[2]))))
