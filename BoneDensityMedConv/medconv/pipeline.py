"""From a CT and its L1 mask to the T-score class: the whole story on one page.

`predict` is `prepare` followed by `analyse`. They are apart because a panel judges and cuts the CT in its own
process, at once, and hands the small `L1Case` to a worker for the network (docs/decisions/0001).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from medconv import attenuation, crop, l1_mask, mask_fit, neighbourhood, tau_adjustment, tscore, vertebra_check
from medconv.config import ModelCard
from medconv.grid import cut_from_whole
from medconv.hounsfield import check_finite, check_hounsfield
from medconv.inference import LoadedModel
from medconv.prediction_set import prediction_set, set_notes
from medconv.segmenter import SPOKEN_NAMES
from medconv.slices import check_slices
from medconv.types import (
    Adjustment,
    Attenuation,
    BoolArray,
    Cancelled,
    CTVolume,
    L1Case,
    L1Mask,
    LevelChoice,
    ModelIdentity,
    Prediction,
    QualityNote,
    Severity,
    TScoreClass,
)

SIMULATED_NOTE = "Trained on simulated CT: demonstration only."

Progress = Callable[[str, float], None]
IsCancelled = Callable[[], bool]


@dataclass(frozen=True)
class Measured:
    """What the image gives before any tau: it stays valid while the sliders move."""

    attenuation: Attenuation
    logits: dict[TScoreClass, float]
    quality: tuple[QualityNote, ...]
    device: str
    timing_s: dict[str, float]
    runtime: str = "eager"


def predict(
    ct: CTVolume,
    mask: L1Mask,
    model: LoadedModel,
    adjustment: Adjustment | None = None,
    *,
    notes: Iterable[QualityNote] = (),
    level: LevelChoice | None = None,
    progress: Progress = lambda stage, fraction: None,
    is_cancelled: IsCancelled = lambda: False,
) -> Prediction:
    """The T-score class of a CT with its L1 mask.

    adjustment: None takes the weights' own. notes: what reading the files already found. level: which vertebra of a
    segmentation the mask is, and who said so (`level_check.choose`); None for a mask that was given as L1.
    progress: called with the stage in words and the fraction done, 0 to 1.
    Raises InputRefused (an input that can't carry an answer), UsageError (tau), Cancelled.
    """
    case = prepare(ct, mask, notes=notes, level=level, progress=progress)
    return analyse(case, model, adjustment, progress=progress, is_cancelled=is_cancelled)


def prepare(
    ct: CTVolume,
    mask: L1Mask,
    *,
    notes: Iterable[QualityNote] = (),
    level: LevelChoice | None = None,
    progress: Progress = lambda stage, fraction: None,
) -> L1Case:
    """Judge the CT and the mask, and cut both to L1's neighbourhood. Raises InputRefused.

    ct: the whole CT, or a slab of it that holds `neighbourhood.needed(mask)`; the case is the same.
    level: as for `predict`; its doubts, confirmed or not, become warnings.
    """
    progress("Checking the CT", 0.05)
    quality = [*notes, *check_hounsfield(ct), *check_slices(ct), *tscore.scope_notes(ct.acquisition)]
    progress(f"Checking {level.used_as if level else 'L1'}", 0.15)
    return cut_out(ct, mask, quality, level)


def cut_out(
    ct: CTVolume, mask: L1Mask, quality: Sequence[QualityNote] = (), level: LevelChoice | None = None
) -> L1Case:
    """Judge the mask, and cut CT and mask to L1's neighbourhood. Raises InputRefused.

    The CT is taken as judged: `prepare` does that for a patient's, the simulator answers for its own.
    """
    mask, mask_notes = l1_mask.check(mask, level.used_as if level else "L1")
    start, size = neighbourhood.around(mask)
    block = cut_from_whole(ct, start, size)
    check_finite(block)
    return L1Case(
        ct=block,
        mask_zyx=_mask_in_block(mask, start, size),
        center_lps_mm=l1_mask.center_lps_mm(mask),
        volume_ml=l1_mask.volume_ml(mask),
        touches_border=l1_mask.touches_border(mask),
        quality=(*quality, *mask_notes, *(_level_notes(level, quality) if level else ())),
        level=level,
    )


def analyse(
    case: L1Case,
    model: LoadedModel,
    adjustment: Adjustment | None = None,
    *,
    progress: Progress = lambda stage, fraction: None,
    is_cancelled: IsCancelled = lambda: False,
) -> Prediction:
    """Measure L1, run the network, adjust and classify. Raises InputRefused, UsageError, Cancelled."""
    adjustment = adjustment or model.card.default_adjustment
    tau_adjustment.check_adjustment(adjustment, model.card.tau1_train)
    measured = measure(case, model, progress=progress, is_cancelled=is_cancelled)
    progress("Adjusting and classifying", 0.95)
    return conclude(case, measured, model.card, adjustment)


def measure(
    case: L1Case,
    model: LoadedModel,
    *,
    progress: Progress = lambda stage, fraction: None,
    is_cancelled: IsCancelled = lambda: False,
) -> Measured:
    """The vertebra's attenuation and the network's logits."""
    started = perf_counter()
    progress(f"Measuring {case.vertebra}'s attenuation", 0.25)
    fit_notes = mask_fit.check_fit(case)
    core, core_notes = attenuation.measure(case)
    _stop_if(is_cancelled)
    core_notes += vertebra_check.check_vertebra(case, core, core_notes)
    _stop_if(is_cancelled)
    measured_at = perf_counter()
    progress(f"Cutting out {case.vertebra}", 0.4)
    network_input = crop.standardised_crop(case, model.card.preprocessing)
    _stop_if(is_cancelled)
    cropped_at = perf_counter()
    progress("Running MedConv", 0.5)
    logits, network_notes = model.run(network_input)
    network_notes += crop.voltage_notes(case.ct.acquisition, model.card.preprocessing)
    _stop_if(is_cancelled)
    timing = {
        "attenuation": measured_at - started,
        "crop": cropped_at - measured_at,
        "network": perf_counter() - cropped_at,
    }
    return Measured(core, logits, (*fit_notes, *core_notes, *network_notes), model.device, timing, model.runtime)


def conclude(case: L1Case, measured: Measured, card: ModelCard, adjustment: Adjustment) -> Prediction:
    """Logits and tau to probabilities, class and notes: no image and no network needed."""
    probabilities = _probabilities(measured, card, adjustment)
    t_score_class = tscore.most_probable(probabilities)
    possible = _possible_classes(measured, card)
    notes = [
        *case.quality,
        *measured.quality,
        *tscore.agreement_notes(t_score_class, measured.attenuation.mean_hu, case.vertebra),
        *(set_notes(possible, card.conformal["alpha"]) if possible else ()),
        *_model_notes(card, case.ct, adjustment),
    ]
    return Prediction(
        t_score_class=t_score_class,
        probabilities=probabilities,
        logits=measured.logits,
        adjustment=adjustment,
        attenuation=measured.attenuation,
        case=replace(case, quality=()),
        quality=tuple(notes),
        model=ModelIdentity(card.name, card.sha256, card.trained_on),
        device=measured.device,
        timing_s=measured.timing_s,
        prediction_set=possible,
        runtime=measured.runtime,
    )


def _probabilities(measured: Measured, card: ModelCard, adjustment: Adjustment) -> dict[TScoreClass, float]:
    return tau_adjustment.adjust(
        measured.logits,
        adjustment,
        class_prior=card.class_prior,
        minority_classes=card.minority_classes,
        tau1_train=card.tau1_train,
    )


def _possible_classes(measured: Measured, card: ModelCard) -> tuple[TScoreClass, ...]:
    """The conformal set, by the weights' own adjustment whatever the reader chose; () for weights without one."""
    if not card.conformal:
        return ()
    return prediction_set(_probabilities(measured, card, card.default_adjustment), card.conformal["threshold"])


def _level_notes(level: LevelChoice, told: Iterable[QualityNote]) -> list[QualityNote]:
    """What there is to say about the choice of the vertebra, without the segmenter's own notes among the doubts."""
    known = {note.message for note in told}
    notes = [QualityNote(d.code, Severity.WARNING, d.message) for d in level.doubts if d.message not in known]
    if level.found_as != level.used_as and level.decided_by == "person":
        source = SPOKEN_NAMES.get(level.segmenter, level.segmenter)
        text = f"A person took this vertebra for {level.used_as}; {source} calls it {level.found_as}."
        notes.append(QualityNote("level_relabelled", Severity.WARNING, text))
    if level.used_as != "L1":
        text = (
            f"{level.used_as} was measured instead of L1: the network was trained on L1, and the limits of attenuation "
            "were published for L1."
        )
        notes.append(QualityNote("stand_in", Severity.WARNING, text))
    return notes


def _model_notes(card: ModelCard, ct: CTVolume, adjustment: Adjustment) -> list[QualityNote]:
    notes = []
    if card.simulated_only:
        notes.append(QualityNote("trained_on_simulated_ct", Severity.WARNING, SIMULATED_NOTE))
    if ct.is_simulated:
        notes.append(QualityNote("simulated_ct", Severity.INFO, "This CT is simulated; it shows no patient."))
    return notes + tau_adjustment.choice_notes(adjustment, card.default_adjustment)


def _mask_in_block(mask: L1Mask, start_xyz: tuple[int, int, int], size_xyz: tuple[int, int, int]) -> BoolArray:
    block = np.zeros(size_xyz[::-1], bool)
    x, y, z = np.asarray(mask.start_xyz) - start_xyz
    depth, height, width = mask.block_zyx.shape
    block[z : z + depth, y : y + height, x : x + width] = mask.block_zyx
    return block


def _stop_if(is_cancelled: IsCancelled) -> None:
    if is_cancelled():
        raise Cancelled
