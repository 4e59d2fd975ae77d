"""What the presenter shows, in words and numbers: pure functions from the result and the choices to plain dicts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from medconv import pipeline, tau_adjustment, tscore
from medconv.config import CLASS_ORDER, ModelCard
from medconv.level_report import DEMONSTRATION_BANNER
from medconv.segmenter import EXISTING, SPOKEN_NAMES
from medconv.types import Adjustment, TScoreClass

TAU_STEP = 0.05
# Said elsewhere in the panel, or true only of the tau with which the network's answer was first read.
NOTES_SHOWN_ELSEWHERE = frozenset({"trained_on_simulated_ct", "simulated_ct", "adjustment_not_default"})
NOTES_OF_A_TAU = frozenset({tscore.DISAGREEMENT})


def probabilities(document: Mapping[str, Any], card: ModelCard, adjustment: Adjustment) -> dict[TScoreClass, float]:
    """The classes' probabilities from the stored logits: no network, well under a millisecond."""
    return tau_adjustment.adjust(
        {TScoreClass(name): float(logit) for name, logit in document["logits"].items()},
        adjustment,
        class_prior=card.class_prior,
        minority_classes=card.minority_classes,
        tau1_train=card.tau1_train,
    )


def result_view(
    document: Mapping[str, Any], card: ModelCard, adjustment: Adjustment, told: Collection[str] = ()
) -> dict[str, Any]:
    """The result card; `told` are messages that stand elsewhere in the panel.

    Raises KeyError, TypeError, ValueError if the document is not a result.
    """
    p = probabilities(document, card, adjustment)
    best = tscore.most_probable(p)
    level = document.get("level") or {}
    vertebra = str(level.get("used_as") or "L1")
    notes = [note for note in notes_on(document, best, vertebra) if note["message"] not in told]
    codes = [note["code"] for note in notes]
    label = tscore.headline(best, codes, document.get("prediction_set") or ())
    return {
        "class_id": str(best),
        "class_name": best.capitalize(),
        "class_label": label,
        "qualifiers": [_line(note) for code in tscore.QUALIFYING for note in notes if note["code"] == code],
        "probabilities": [{"id": str(c), "label": str(c).capitalize(), "value": p[c]} for c in CLASS_ORDER],
        "now_line": f"Now: {label.partition(' (')[0]}. {_in_per_cent(p)}",
        "hu_line": hu_line(document["attenuation"], vertebra),
        "l1_line": l1_line(document["l1"], vertebra, str(level.get("segmenter") or EXISTING)),
        "quality": [_line(note) for note in notes if note["code"] not in tscore.QUALIFYING],
        "model_line": f"Weights: {document['model']['name']}, trained on {document['model']['trained_on']}",
        "adjustment_line": adjustment_line(adjustment, card),
    }


def notes_on(document: Mapping[str, Any], t_score_class: TScoreClass, vertebra: str = "L1") -> list[dict[str, str]]:
    """The notes to show, warnings first; what depends on the class is judged anew for the class now shown."""
    kept = [n for n in document["quality"] if n["code"] not in NOTES_SHOWN_ELSEWHERE | NOTES_OF_A_TAU]
    notes = [{name: str(n[name]) for name in ("code", "severity", "message")} for n in kept]
    disagreeing = tscore.agreement_notes(t_score_class, float(document["attenuation"]["mean_hu"]), vertebra)
    notes += [{"code": n.code, "severity": str(n.severity), "message": n.message} for n in disagreeing]
    return sorted(notes, key=lambda note: note["severity"] != "warning")


def _line(note: Mapping[str, str]) -> dict[str, str]:
    return {"severity": note["severity"], "message": note["message"]}


def _in_per_cent(p: Mapping[TScoreClass, float]) -> str:
    return ", ".join(f"{c} {100 * p[c]:.1f} %" for c in CLASS_ORDER).capitalize()


def demonstration(card: ModelCard | None, by_demonstration: bool) -> str:
    """What must not be taken for a diagnosis: weights, and a network that outlined the vertebrae; "" if neither."""
    weights = pipeline.SIMULATED_NOTE if card and card.simulated_only else ""
    return " ".join(part for part in (weights, DEMONSTRATION_BANNER if by_demonstration else "") if part)


def hu_line(attenuation: Mapping[str, Any], vertebra: str = "L1") -> str:
    """Mean, median, spread and size of the region of interest in the vertebra that was measured."""
    a = attenuation
    return (
        f"{vertebra} trabecular attenuation: mean {a['mean_hu']:.0f} HU, median {a['median_hu']:.0f} HU, "
        f"SD {a['sd_hu']:.0f} HU ({a['voxels']:,} voxels, {a['volume_ml']:.1f} ml)"
    )


def l1_line(l1: Mapping[str, Any], vertebra: str = "L1", segmenter: str = EXISTING) -> str:
    """Volume and position of the measured vertebra, each axis with the letter of its direction, as in the slice views;
    and which network outlined it."""
    letters = (("R", "L"), ("A", "P"), ("S", "I"))
    position = ", ".join(
        f"{positive if value >= 0 else negative} {abs(value):.0f}"
        for value, (positive, negative) in zip(l1["center_ras_mm"], letters, strict=True)
    )
    source = "" if segmenter == EXISTING else f", outlined by {SPOKEN_NAMES.get(segmenter, segmenter)}"
    return f"{vertebra}: volume {l1['volume_ml']:.1f} ml, centre at {position} mm{source}"


def adjustment_line(adjustment: Adjustment, card: ModelCard) -> str:
    """Method and taus in use, and whether they are the weights' own."""
    own = card.default_adjustment
    text = f"Adjustment: {_in_words(adjustment)}"
    if adjustment == own:
        return f"{text}; the weights' own setting"
    return f"{text}; changed by the reader (the weights' own: {_in_words(own)})"


def adjustment_view(adjustment: Adjustment | None, card: ModelCard | None) -> dict[str, Any]:
    """Methods, taus, limits of the sliders, and which of them may move; without weights, none."""
    method = tau_adjustment.method(adjustment.method) if adjustment else tau_adjustment.METHODS[0]
    low, high = method.tau2_limits
    tau1_note = ""
    if card and not method.tau1_acts:
        tau1_note = f"tau1 = {card.tau1_train:g} belongs to the weights (they were trained with it) and stays fixed."
    return {
        "method": method.id,
        "methods": [{"id": m.id, "label": m.label, "help": m.help} for m in tau_adjustment.METHODS],
        "tau1": adjustment.tau1 if adjustment else 1.0,
        "tau2": adjustment.tau2 if adjustment else 1.0,
        "tau1_enabled": adjustment is not None and method.tau1_acts,
        "tau2_enabled": adjustment is not None,
        "tau1_note": tau1_note,
        "tau_minimum": low,
        "tau_maximum": high,
        "tau_step": TAU_STEP,
        "is_default": adjustment is None or card is None or adjustment == card.default_adjustment,
    }


def _in_words(adjustment: Adjustment) -> str:
    label = tau_adjustment.method(adjustment.method).label
    return f"{label}, tau1 = {adjustment.tau1:g}, tau2 = {adjustment.tau2:g}"
