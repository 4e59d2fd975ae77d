"""`medconv simulate --compare`: a real CT beside simulated ones of its kind, as a picture and as numbers."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from medconv import RESEARCH_USE_ONLY, console, l1_mask, volume_io
from medconv.hounsfield import check_hounsfield
from medconv.simulate.realism import (
    DEPTH_MM,
    FREQUENCY_STEP,
    HISTOGRAM_HU,
    PERCENTILES,
    Appearance,
    appearance,
    difference,
    simulated_like,
)
from medconv.simulate.realism_plot import draw_realism
from medconv.simulate_options import ANY, plan_of
from medconv.types import UsageError

COMPARED = 8
SOFT = "soft"  # the kernel where none is named
NUMBERS, PICTURE = "realism.json", "realism.png"


def run_comparison(options: argparse.Namespace) -> int:
    """Measure, simulate, and write both files. Raises UsageError, InputRefused, MissingRequirement."""
    if options.mask is None or options.result is None:
        raise UsageError(
            "comparison_incomplete",
            "--compare needs the mask of L1 and a folder for the result.",
            "Give: medconv simulate --compare CT --mask MASK --out DIR.",
        )
    out: Path = options.result
    console.say("Reading the CT")
    ct = volume_io.read_ct(options.compare)
    check_hounsfield(ct)
    labels, geometry, _keep_alive = volume_io.read_labels(options.mask)
    mask, _ = l1_mask.check(l1_mask.from_labels(labels, geometry, options.label, ct.geometry)[0])
    real = appearance(ct, mask.full_array_zyx().astype(bool))
    simulated: list[Appearance] = []
    persons = replace(plan_of(options).persons, kernel=SOFT if options.kernel == ANY else options.kernel)
    for one, own_mask in simulated_like(ct, real.core_median_hu, persons, COMPARED):
        simulated.append(appearance(one, own_mask))
        console.say(f"Simulated {len(simulated)} of {COMPARED} CTs", len(simulated) / COMPARED)
    out.mkdir(parents=True, exist_ok=True)
    draw_realism(out / PICTURE, real, simulated)
    numbers = difference(real, simulated)
    document = {
        "research_use": RESEARCH_USE_ONLY,
        "difference": _plain(numbers),
        "bins": {
            "histogram_hu": HISTOGRAM_HU.tolist(),
            "depth_mm": DEPTH_MM.tolist(),
            "percentiles": PERCENTILES,
            "frequency_step_per_mm": FREQUENCY_STEP,
        },
        "real": _plain(asdict(real)),
        "simulated": [_plain(asdict(one)) for one in simulated],
    }
    (out / NUMBERS).write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    console.clear()
    for name, value in numbers.items():
        told = f"{value:.2f}" if "ratio" in name else f"{value:.0f} HU"
        print(f"  {name.removesuffix('_hu').replace('_', ' ')}: {told}")
    print(f"  Picture: {out / PICTURE}\n  Numbers: {out / NUMBERS}")
    return 0


def _plain(values: Any) -> Any:
    """For JSON, which knows no arrays and no NaN."""
    if isinstance(values, np.ndarray):
        return [_plain(value) for value in values.tolist()]
    if isinstance(values, Mapping):
        return {name: _plain(value) for name, value in values.items()}
    return None if isinstance(values, float) and math.isnan(values) else values
