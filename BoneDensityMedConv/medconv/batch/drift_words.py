"""How the respects in which a batch is compared are spoken of, and what to do about a difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CAN_NOT_JUDGE = (
    "These weights do not tell whom they were trained on, so whether this archive resembles it can't be judged. "
    "Weights that 'medconv weights export' packs from a run tell it."
)


@dataclass(frozen=True)
class Words:
    """How a quantity is spoken of: its name, the number's form, what a difference may come from.

    shifts: whether all values may move by the same amount; a probability's can't.
    """

    name: str
    form: str
    remedy: str
    shifts: bool = True


QUANTITIES: Mapping[str, Words] = {
    "hu_mean": Words(
        "The HU of L1",
        "{:.0f} HU",
        "First compare tube voltage and contrast agent below: both move HU. If they explain nothing, the patients are "
        "older, younger or sicker than in training, or the scanner is calibrated otherwise: look at some reports, and "
        "check the scanners' HU with a phantom, before any class share of this archive is used.",
    ),
    "hu_sd": Words(
        "The unevenness (SD) inside L1",
        "{:.0f} HU",
        "Noise (thin slices, a sharp kernel, a low dose), smoothing reconstruction, or focal change. The network reads "
        "bone's texture: use a soft kernel and 1 to 3 mm slices where there is a choice.",
    ),
    "l1_volume_ml": Words(
        "The volume of L1's mask",
        "{:.1f} ml",
        "Masks that take in more or less than in training (another segmenter, neighbouring bone), or a different mix "
        "of men and women: look at the masks of some cases at both ends.",
    ),
    "p_osteoporosis": Words(
        "The probability of osteoporosis",
        "{:.2f}",
        "It follows from HU and image quality, or from how frequent osteoporosis is here. Compare with DXA where "
        "there is any; tau2 can be chosen for another frequency.",
        shifts=False,
    ),
}
CLASSES_REMEDY = (
    "Shares of given classes are no prevalence. Compare with DXA where there is any before they are used; tau2 can be "
    "chosen for another frequency."
)
ACQUISITION: Mapping[str, tuple[str, str, str]] = {
    "kvp": (
        "Tube voltages",
        "kVp",
        "A lower voltage raises HU. Weights with a reference voltage correct for it as far as physics allows; judge "
        "the voltages apart.",
    ),
    "slice_thickness_mm": (
        "Slice thicknesses",
        "mm",
        "Thick slices average the cortex and the discs into L1's core, thin ones are noisier. Prefer the series whose "
        "thickness is most frequent in training.",
    ),
    "contrast_agent": (
        "Contrast agent is",
        "",
        "It raises HU by some 10 to 20 HU and can hide low density: judge CTs with and without it apart.",
    ),
}
