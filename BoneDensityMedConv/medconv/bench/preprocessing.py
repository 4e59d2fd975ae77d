"""Part of `stages`: from CT and mask in memory to the network's crop, beside the naive way; and the slider."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk

from medconv import crop, l1_mask, pipeline
from medconv.bench import memory, trunk_files
from medconv.bench.figures import Action, Row, take_turns
from medconv.bench.settings import Settings
from medconv.grid import index3, to_image
from medconv.inference import LoadedModel
from medconv.tau_adjustment import adjust
from medconv.types import CTVolume, ImageGeometry, Index3, L1Mask

NAIVE, OURS = "resample everything, then cut", "check, cut, then resample"
SLIDER_REPEATS = 200


def measure(shape_zyx: Index3, settings: Settings) -> Iterator[Row]:
    """Ours and the naive way on a CT in memory; and the slider, which needs neither image nor network."""
    ct, mask, model = _in_memory(shape_zyx)
    wanted = model.card.preprocessing

    def ours() -> object:
        return crop.standardised_crop(pipeline.prepare(ct, mask), wanted)

    def naive() -> object:
        spacing = wanted.spacing_mm
        size = np.ceil(np.asarray(ct.geometry.size_xyz) * np.asarray(ct.geometry.spacing_mm_xyz) / spacing)
        target = ImageGeometry(index3(size), (spacing, spacing, spacing), ct.geometry.origin_lps_mm)
        grid = sitk.Image(target.size_xyz, sitk.sitkUInt8)
        grid.SetSpacing(target.spacing_mm_xyz)
        return [
            sitk.Resample(to_image(array, ct.geometry), grid, sitk.Transform(), how, 0)
            for array, how in ((ct.array_zyx, sitk.sitkLinear), (mask.full_array_zyx(), sitk.sitkNearestNeighbor))
        ]

    actions: dict[str, Action] = {NAIVE: naive, OURS: ours}
    peaks = {name: memory.peak_of(actions[name]) for name in (OURS, NAIVE)}
    trial = take_turns(actions, settings.rounds, settle=False)
    for name in actions:
        yield trial.row(name, NAIVE, name=f"preprocessing: {name}", note="CT and mask in memory", peak_mb=peaks[name])
    measured = pipeline.measure(pipeline.prepare(ct, mask), model)
    card = model.card
    slider = take_turns(
        {"slider": lambda: adjust(
            measured.logits, card.default_adjustment, class_prior=card.class_prior,
            minority_classes=card.minority_classes, tau1_train=card.tau1_train,
        )}, SLIDER_REPEATS, settle=False,
    )  # fmt: skip
    yield slider.row("slider", per=1e-3, unit="ms", name="tau slider to probabilities")


def _in_memory(shape_zyx: Index3) -> tuple[CTVolume, L1Mask, LoadedModel]:
    hu, labels = trunk_files.trunk_arrays(shape_zyx)
    geometry = trunk_files.trunk_geometry(shape_zyx)
    ct = CTVolume(hu, geometry, is_simulated=True)
    return ct, l1_mask.from_array(labels, geometry, geometry), LoadedModel.load(None, "cpu")
