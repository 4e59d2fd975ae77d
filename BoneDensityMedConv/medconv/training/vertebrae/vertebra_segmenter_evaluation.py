"""The demonstration segmenter measured as it is used: by nnU-Net's own predictor, on NIfTI files, on CTs held out.

    python -m medconv.training.vertebrae.vertebra_segmenter_evaluation FOLDER --cases 12 [--ct CT --labels LABELS]

writes domain.json (what a simulated CT looks like) and README.md (the model card) into the model folder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medconv.grid import to_image
from medconv.segmenters.domain import mixed_share
from medconv.simulate import SimulatedCase, simulate_lumbar_ct
from medconv.simulate.scan import KERNEL_SHARES, KVP_SHARES, PHASE_SHARES
from medconv.training.vertebrae.vertebra_segmenter_data import FROM_SIMULATED, LABEL_NAMES
from medconv.types import CTVolume

TEST_SEED, DOMAIN_SEED = 950_000, 0
SLICES_MM = (0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0)
IN_PLANE_MM = (0.9, 1.2, 1.5, 2.0, 3.0)
LIMIT_OVER_LARGEST = 1.35  # how far beyond the simulated range a CT may lie before it is refused


def random_scan(seed: int, height_mm: tuple[float, float] = (60.0, 220.0)) -> SimulatedCase:
    """A simulated CT with any voltage, kernel, phase, spacing and field of view; every fifth is the sample's sketch."""
    rng = np.random.default_rng([seed, 7])
    kvp = list(KVP_SHARES)[seed % len(KVP_SHARES)]
    kernel = list(KERNEL_SHARES)[seed // 4 % len(KERNEL_SHARES)]
    phase = list(PHASE_SHARES)[seed // 2 % len(PHASE_SHARES)]
    thickness, in_plane = SLICES_MM[seed % len(SLICES_MM)], float(rng.choice(IN_PLANE_MM))
    shown = None
    if seed % 5:
        height = float(rng.uniform(*height_mm))
        low = float(rng.uniform(-280.0, 215.0 - height))
        shown = (low, low + height)
    return simulate_lumbar_ct(
        seed, kvp=kvp, kernel=kernel, phase=phase, slice_thickness_mm=max(thickness, 1.0 / in_plane),
        in_plane_spacing_mm=in_plane, field_of_view_mm=shown,
    )  # fmt: skip


def domain_document(seeds: Sequence[int]) -> dict[str, Any]:
    """domain.json, from the scans of these seeds."""
    shares = [mixed_share(random_scan(seed).ct) for seed in seeds]
    found = [share for share in shares if np.isfinite(share)]
    return {
        "simulated_cts": len(found),
        "mixed_share_percent": {
            "range": [round(min(found), 3), round(max(found), 3)],
            "limit": round(LIMIT_OVER_LARGEST * max(found), 3),
        },
    }


def predict(folder: Path, ct: Path, threads: int = 1) -> sitk.Image:
    """The label map on the CT's grid, by nnUNetPredictor, without test-time mirroring."""
    import torch
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(threads)
    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_gaussian=True, use_mirroring=False, perform_everything_on_device=False,
        device=torch.device("cpu"), verbose=False, allow_tqdm=False,
    )  # fmt: skip
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0,), checkpoint_name="checkpoint_final.pth")
    image, properties = NibabelIOWithReorient().read_images([str(ct)])
    with tempfile.TemporaryDirectory() as scratch:
        predictor.predict_single_npy_array(image, properties, None, str(Path(scratch) / "labels"), False)
        return sitk.ReadImage(str(Path(scratch) / "labels.nii.gz"))


def dice_per_label(found: NDArray[Any], true: NDArray[Any]) -> dict[str, float]:
    """Dice of every structure that `true` shows; both arrays on one grid, numbers as in LABEL_NAMES."""
    if found.shape != true.shape:
        raise ValueError(f"label maps of {found.shape} and {true.shape} voxels can't be compared")
    dice = {}
    for label, name in enumerate(LABEL_NAMES[1:], start=1):
        a, b = found == label, true == label
        if b.any():
            dice[name] = 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())
    return dice


def measure_simulated(folder: Path, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Dice of every structure in whole trunks that the training has not seen, at 1.2 x 1.2 x 2 mm."""
    table = np.zeros(256, np.uint8)
    table[list(FROM_SIMULATED)] = list(FROM_SIMULATED.values())
    found: dict[str, list[float]] = {name: [] for name in LABEL_NAMES[1:]}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in seeds:
            case = simulate_lumbar_ct(
                seed, in_plane_spacing_mm=1.2, slice_thickness_mm=2.0, field_of_view_mm=(-265.0, 175.0),
                kernel=("soft", "medium", "sharp")[seed % 3], phase=("native", "portal")[seed % 2],
            )  # fmt: skip
            file = Path(scratch) / f"{seed}.nii.gz"
            write_nifti(case.ct, file)
            labels = sitk.GetArrayFromImage(predict(folder, file))
            for name, value in dice_per_label(labels, table[case.labels_zyx]).items():
                found[name].append(value)
            print(seed, {n: round(v[-1], 2) for n, v in found.items() if v}, flush=True)
    return found


def write_nifti(ct: CTVolume, file: Path) -> None:
    sitk.WriteImage(to_image(ct.array_zyx, ct.geometry), str(file))


def measure_real(folder: Path, ct: Path, reference: Path) -> float:
    """Dice of L1 on a CT with a TotalSegmentator label map (31 is L1)."""
    found = sitk.GetArrayFromImage(predict(folder, ct)) == LABEL_NAMES.index("vertebrae_L1")
    true = sitk.GetArrayFromImage(sitk.ReadImage(str(reference))) == 31
    return 2.0 * float((found & true).sum()) / max(float(found.sum() + true.sum()), 1.0)


def card(dice: Mapping[str, Sequence[float]], real_l1: float | None, training: Mapping[str, Any]) -> str:
    """README.md of the model folder."""
    rows = [
        f"| {name} | {np.mean(values):.2f} | {np.min(values):.2f} |" if values else f"| {name} | – | – |"
        for name, values in dice.items()
    ]
    cases = max((len(v) for v in dice.values()), default=0)
    real = "not measured" if real_l1 is None else f"{real_l1:.2f}"
    return CARD.format(rows="\n".join(rows), cases=cases, real=real, **training)


CARD = """# medconv-sim-vertebrae: demonstration segmenter

**Demonstration, trained on simulated CT only. It has never seen a patient; what it finds in a real CT means nothing.**
Research use only. It ships so that the whole chain (CT, vertebrae, level check, L1, answer) runs on a fresh machine
without a download. The product refuses it on real CT unless the person insists (`domain.json`).

- **Format**: nnU-Net v2 model folder (nnunetv2 2.8), 3d_fullres at 3 mm, one fold, half precision. The checkpoint holds
  tensors and plain values only and loads with `torch.load(..., weights_only=True)`.
- **Network**: PlainConvUNet, 5 stages, patch 112 x 48 x 64 voxels (z, y, x), no mirroring.
- **Finds**: T10 to L5, sacrum (with S1), ribs 11 and 12 of both sides, liver, under TotalSegmentator's names.
- **Trained on**: {cases_trained} simulated trunks (`medconv.simulate`, usual anatomy with five lumbar vertebrae only),
  strongly disturbed; {steps} steps of one patch, of which {coarse_steps} without the network's last stage.
- **Licence**: that of the project; no data but the simulator's.

## Dice on {cases} simulated CTs that it has not seen
nnU-Net's predictor on NIfTI files of 1.2 x 1.2 x 2 mm from T8 to the sacrum, three kernels, native and portal phase.

| Structure | mean | lowest |
|---|---|---|
{rows}

L1 on one real CT (TotalSegmentator's example, native abdomen, 3 mm; against TotalSegmentator's own mask): Dice {real}.
These figures say that the software works. They say nothing about patients.

## What its names rest on, and where it fails
The simulator puts kidneys, liver and lungs at the same height in everyone, and the network has learnt that: it names L1
rightly in fields of view of 12 cm without ribs or sacrum, and in simulated people with four or six lumbar vertebrae or
other ribs (eight tried), for a reason that does not hold in patients. A sixth lumbar vertebra it calls L5 as well, so
that L5 is twice as large. In real CT outlines are too tight and ribs poor. The product's level check is there for all
of this.

## Made by
    python -m medconv.training.vertebrae.vertebra_segmenter --out FOLDER --cases {cases_trained} --steps {steps} \\
        --coarse-steps {coarse_steps} --seed {seed}
    python -m medconv.training.vertebrae.vertebra_segmenter_evaluation FOLDER
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="the model folder")
    parser.add_argument("--cases", type=int, default=12, help="simulated CTs to measure")
    parser.add_argument("--domain-cases", type=int, default=44, help="simulated CTs from which domain.json is made")
    parser.add_argument("--ct", type=Path, help="a real CT to measure L1 on")
    parser.add_argument("--labels", type=Path, help="its label map, numbers of TotalSegmentator")
    chosen = parser.parse_args(arguments)
    if chosen.domain_cases:
        domain = domain_document(range(DOMAIN_SEED, DOMAIN_SEED + chosen.domain_cases))
        (chosen.folder / "domain.json").write_text(json.dumps(domain, indent=1) + "\n", "utf-8")
    training = json.loads((chosen.folder / "training.json").read_text("utf-8"))
    dice = measure_simulated(chosen.folder, range(TEST_SEED, TEST_SEED + chosen.cases))
    real = measure_real(chosen.folder, chosen.ct, chosen.labels) if chosen.ct else None
    (chosen.folder / "README.md").write_text(card(dice, real, training), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
