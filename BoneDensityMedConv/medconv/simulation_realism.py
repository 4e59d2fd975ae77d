"""`medconv simulate --compare`: a real CT beside simulated ones of its kind, as a picture and as numbers."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from medconv import RESEARCH_USE_ONLY, console, l1_mask, volume_io
from medconv.hounsfield import check_hounsfield
from medconv.simulate.person import PersonSettings
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
from medconv.simulate_options import finding_shares
from medconv.types import UsageError

COMPARED = 8
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
    persons = PersonSettings(options.seed, finding_shares=finding_shares(options.findings))
    for one, own_mask in simulated_like(ct, real.core_median_hu, persons, COMPARED):
        simulated.append(appearance(one, own_mask))
        console.say(f"Simulated {len(simulated)} of {COMPARED} CTs", len(simulated) / COMPARED)
    out.mkdir(parents=True, exist_ok=True)
    draw_realism(out / PICTURE, real, simulated)
    numbers = difference(real, simulated)
    document = {
        "research_use": RESEARCH_USE_ONLY,
        "difference": numbers,
        "bins": {
            "histogram_hu": HISTOGRAM_HU.tolist(),
            "depth_mm": DEPTH_MM.tolist(),
            "percentiles": PERCENTILES,
            "frequency_step_per_mm": FREQUENCY_STEP,
        },
        "real": _plain(real),
        "simulated": [_plain(one) for one in simulated],
    }
    (out / NUMBERS).write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    console.clear()
    for name, value in numbers.items():
        print(
            f"  {name.replace('_', ' ')}: {value:.2f}"
            if "ratio" in name
            else f"  {name.replace('_', ' ')}: {value:.0f}"
        )
    print(f"  Picture: {out / PICTURE}\n  Numbers: {out / NUMBERS}")
    return 0


def _plain(one: Appearance) -> dict[str, object]:
    """For JSON, which knows no NaN."""
    plain: dict[str, object] = {}
    for name, value in asdict(one).items():
        plain[name] = [None if np.isnan(v) else v for v in value.tolist()] if isinstance(value, np.ndarray) else value
    return plain
